"""Fine-tuning of diffusion models on concepts and tokens."""
