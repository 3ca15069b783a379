"""AnchorNet and the classifiers that follow it."""
