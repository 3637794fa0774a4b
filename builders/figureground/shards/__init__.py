"""What a build leaves on disk: shards as tar and Parquet, their markers, the index and the dataset card."""
