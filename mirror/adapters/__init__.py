"""The outside world: each module puts one third-party library or system behind a port."""
