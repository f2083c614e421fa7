"""Each promise of the design against what tries hard to break it; `scripts/test faults` prints a table."""
