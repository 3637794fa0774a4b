"""Data that several files of tests train on; none writes into them."""

from shared_fixtures import bed as images  # noqa: F401
