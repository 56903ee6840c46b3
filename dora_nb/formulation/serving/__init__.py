"""Chains of stages with slots for requests that want tokens, by what they take at least."""
