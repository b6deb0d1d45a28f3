"""Upstream over HTTP: asked politely, answered by strangers."""
