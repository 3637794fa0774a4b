"""Shared foundations: errors, files, devices, signals."""
