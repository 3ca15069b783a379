"""From an exit table to policies and probabilities."""
