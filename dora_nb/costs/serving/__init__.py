"""Requests that want tokens and arrive over time: what they take, and what no plan with slots can beat."""
