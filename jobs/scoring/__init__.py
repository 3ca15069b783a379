"""Every exit of every labelled image."""
