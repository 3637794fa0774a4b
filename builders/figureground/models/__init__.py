"""Models that other people made: what their files are, and how they are opened."""
