"""The caches on local disk: records on diskcache, archives in a plain folder."""
