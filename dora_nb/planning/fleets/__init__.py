"""Fleets too large for the exact search, and sites."""
