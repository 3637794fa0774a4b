"""Datasets in object stores: requests and their faults, leases, the scratch of a build, mirrors for reading."""
