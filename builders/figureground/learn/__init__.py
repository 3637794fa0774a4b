"""Labelled data sets in which a class comes with an attribute, and classifiers that are trained on them."""
