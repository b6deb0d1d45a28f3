"""Repositories answer clients, alone or wrapped round one another."""
