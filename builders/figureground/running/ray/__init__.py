"""What the runner `ray` is made of: the cluster, the actors that render, and the handing out of shards."""
