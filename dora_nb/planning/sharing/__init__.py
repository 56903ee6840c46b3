"""Several streams on one cluster."""
