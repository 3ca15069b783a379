"""What a cluster has, and who of a job gets how much of it."""
