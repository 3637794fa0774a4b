"""Training of classifiers on datasets with group labels (class and attribute)."""
