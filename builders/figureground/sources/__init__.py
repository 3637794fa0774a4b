"""Source images and masks of datasets, and their licences."""
