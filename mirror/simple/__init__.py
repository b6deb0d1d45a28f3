"""The Simple repository API (PEP 503, 691 and their successors) as pure functions."""
