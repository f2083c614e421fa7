"""A root on disk."""
