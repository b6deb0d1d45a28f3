"""A caching pull-through mirror for Python packages."""

__version__ = "0.1.0"
