"""Applications with older libraries, and other engines, each in an environment of its own: `scripts/test slow`."""
