"""Parts of the sandbox, each alone."""
