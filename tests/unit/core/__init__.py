"""Values, names and rules."""
