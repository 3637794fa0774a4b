"""A complete miniature: a drawn world with known labels, and a Stable Diffusion model trained on it."""
