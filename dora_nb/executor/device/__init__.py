"""What one device does in a run."""
