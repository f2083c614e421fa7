"""Helpers of the tests; README.md says which one to take."""
