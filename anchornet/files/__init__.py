"""Files by name, typed configuration."""
