"""Output of a build: shards as tar and Parquet, their markers, the index and the dataset card."""
