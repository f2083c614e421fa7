"""Each promise of the design against what tries hard to break it. Run by `scripts/test faults`, which prints a table."""
