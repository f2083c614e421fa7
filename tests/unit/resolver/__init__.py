"""Which files of a repository are shipped."""
