"""Diffusion models: opening checkpoints, and rendering Specs to images.

The libraries' own progress bars and warnings are turned off here, before any pipeline is imported.
"""

from figureground.core import libraries

libraries.import_silently("diffusers", "transformers")
