"""Stores wrapped round stores: a cache in front, leases, and records of what was read."""
