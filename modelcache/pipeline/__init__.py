"""The procedures: lock, sync, verify. They report to a Reporter and print nothing.

Imports everything but cli.
Outside, `context`, `pins`, `lock`, `sync` and `verify` are imported.
"""
