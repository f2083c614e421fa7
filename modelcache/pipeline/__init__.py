"""The procedures: lock, sync, verify. They report to a Reporter and print nothing.

Imports everything but cli.
Other packages import only `context`, `pins`, `lock`, `sync` and `verify`.
"""
