"""What people read: scores, counts, pictures."""
