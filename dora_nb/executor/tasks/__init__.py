"""What is computed, written down so that any process can build its part of it."""
