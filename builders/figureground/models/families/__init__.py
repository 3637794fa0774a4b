"""Model families, one module each; `models.family` has what they share and the registry."""
