"""What scripts/bench runs: whole processes, this tool and its peers in turn, on one Hub and the same models."""
