"""Ways of training, one module each; `learn.way` has what they share and the registry."""
