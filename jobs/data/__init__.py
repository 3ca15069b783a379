"""Images and listings on Ray."""
