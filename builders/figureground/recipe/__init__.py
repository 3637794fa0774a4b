"""Recipes: settings, class lists, prompts, tables of labels, and the plan of samples."""
