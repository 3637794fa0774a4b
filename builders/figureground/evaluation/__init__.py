"""Evaluation of classifiers on finished datasets."""
