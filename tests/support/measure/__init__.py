"""Coverage where coverage.py cannot measure by itself: see sitecustomize.py. Used by `scripts/test coverage` only."""
