"""What every job does before and after its work."""
