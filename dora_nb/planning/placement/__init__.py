"""Layers in own numbers on devices, from a problem file."""
