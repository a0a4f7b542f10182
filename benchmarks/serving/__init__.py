"""Servers side by side; see __main__.py."""
