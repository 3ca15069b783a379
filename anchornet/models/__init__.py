"""One network: its cost, its weights, how it learns."""
