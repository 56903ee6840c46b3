"""Frozen records of what the explorer shows, and how they follow from plans; no widget, no plotly."""
