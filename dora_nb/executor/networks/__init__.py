"""Networks that workers can build layer by layer, from where their weights come."""
