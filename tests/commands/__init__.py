"""The commands as users see them: files on disk, exit codes, words, requests."""
