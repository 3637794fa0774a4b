"""Data that several files of tests train on; none writes into them. Importing a fixture is what uses it (F401)."""

from shared_fixtures import bed as images  # noqa: F401
