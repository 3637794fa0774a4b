"""A complete miniature: a drawn world whose labels are known, and a Stable Diffusion trained on it."""
