"""Where a build runs: in processes on this machine."""
