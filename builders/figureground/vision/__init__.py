"""Image classifiers, used as judges and as feature networks for losses and analyses."""
