"""The kinds of adaptive classifiers."""
