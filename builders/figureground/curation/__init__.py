"""Datasets made from finished datasets: curated, merged, judged for copies."""
