"""Datasets pushed to the Hugging Face Hub."""
