"""Makes what D3S composes: cut-outs of objects from photographs, and scenes drawn by text-to-image."""
