"""Panels with which methods show in the report how their images were made."""
