"""Datasets derived from finished datasets: curated or merged."""
