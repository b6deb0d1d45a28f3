"""What a setting is, how its value is read, and where values come from; `mirror.config` says which there are."""
