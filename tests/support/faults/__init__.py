"""Helpers of the fault suite."""
