"""The train jobs behind their verb."""
