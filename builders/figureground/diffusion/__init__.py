"""Diffusion models: opened, and turned from Specs into pictures.

The libraries' own progress bars and warnings are turned off here, before any pipeline is imported: they
speak of parts that are not used (image processors that want torchvision) and of steps, not of images.
"""

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

for _logging in (diffusers_logging, transformers_logging):
    _logging.set_verbosity_error()
    _logging.disable_progress_bar()
