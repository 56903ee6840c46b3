"""The joint program: stages, start times and transfer orders at once."""
