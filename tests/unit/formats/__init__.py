"""Our files as values."""
