"""The stories: lock, sync, verify. They speak to a reporter and print nothing.

Imports everything but cli.
Outside, `context`, `project`, `lock`, `sync` and `verify` are imported.
"""
