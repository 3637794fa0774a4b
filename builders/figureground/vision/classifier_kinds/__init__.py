"""Kinds of classifiers; see `models.classifier_files`."""
