"""The helpers of the tests themselves."""
