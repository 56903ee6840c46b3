"""The control channel: orders to the workers and their answers, over pipes or over authenticated connections."""
