"""One module a command: its options and run().

Imports everything.
Outside, `cli.registry` alone imports them.
"""
