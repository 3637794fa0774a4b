"""Runners, one module each; `running.runner` has what they share and the registry."""
