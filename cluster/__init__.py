"""What a cluster is made of, and how a job gets onto one."""
