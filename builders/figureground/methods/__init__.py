"""The methods by which datasets are made: one module each."""
