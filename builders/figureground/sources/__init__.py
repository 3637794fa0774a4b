"""Images and masks from which datasets are made, and their licences."""
