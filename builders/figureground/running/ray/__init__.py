"""Parts of the runner `ray`: the cluster, the actors that render, and the handing out of shards."""
