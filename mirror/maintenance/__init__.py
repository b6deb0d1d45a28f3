"""Care for a store: verify it, clear it, measure it, copy it."""
