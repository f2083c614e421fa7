"""One module a command: its arguments and what it does.

Imports everything.
Outside, `cli.registry` alone imports them.
"""
