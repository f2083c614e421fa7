"""models.toml, models.lock and the receipt: bytes to values and back, no I/O.

Imports core.
Every module may be imported.
"""
