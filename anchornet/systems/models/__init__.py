"""Ordinary classifiers, cheap ones first, as a cascade."""
