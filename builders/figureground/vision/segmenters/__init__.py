"""Kinds of segmenters; see `models.segmenter_files`."""
