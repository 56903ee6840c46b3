"""A few resident plans and how often to use each, condition by condition."""
