"""The training loop of every model, with its saved state and curves."""
