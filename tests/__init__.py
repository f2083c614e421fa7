"""Tests: the remote is faked, never our own functions; what counts is what lies on disk."""
