"""Which plans to use how often: mixtures, their prices, their program."""
