"""Parts of `check`, each alone."""
