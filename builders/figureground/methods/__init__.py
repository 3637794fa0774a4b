"""Methods that make datasets, one module each."""
