"""A browser for the tests of the page."""

from browsers import chromium  # noqa: F401
