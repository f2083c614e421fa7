"""Linux: files, memory, threads."""
