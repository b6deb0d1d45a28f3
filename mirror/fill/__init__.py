"""One download, many readers: spool, verify, keep."""
