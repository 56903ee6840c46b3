"""Widgets that only draw: what they show was computed in :mod:`dora_nb.explorer.views`."""
