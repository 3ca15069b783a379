"""The loop that runs survivors densely, and the rows that travel through it."""
