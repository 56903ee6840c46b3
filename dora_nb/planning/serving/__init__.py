"""Plans to serve requests that want tokens."""
