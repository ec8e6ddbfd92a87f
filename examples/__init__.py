"""Runnable examples of pykka-registry."""
