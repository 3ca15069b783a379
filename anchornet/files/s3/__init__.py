"""What Arrow does not do for S3: listing in parallel, and keys that are no paths."""
