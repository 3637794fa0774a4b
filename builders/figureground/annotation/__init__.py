"""People's answers about a dataset's labels: the page that asks, the files that keep them, and what they show."""
