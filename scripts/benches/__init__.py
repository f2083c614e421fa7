"""The scenarios of scripts/bench: whole processes, this tool and its peers in turn, with one Hub and equal models."""
