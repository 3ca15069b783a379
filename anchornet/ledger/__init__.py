"""The bound on what a job may spend, and how well it is used."""
