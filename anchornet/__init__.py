"""AnchorNet cascades: labels for images under a hard compute budget. Plain torch and numpy; never imports ray."""

__version__ = "0.1.0"
