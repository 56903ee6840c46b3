"""Bounds for fleets too large for the exact search, and for sites."""
