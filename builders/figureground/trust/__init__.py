"""What is done with a finished dataset: choosing from it by rules on labels and scores, and joining several."""
