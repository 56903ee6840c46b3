"""Layers in own numbers: downsets of any graph, stages of them, and the assignment program."""
