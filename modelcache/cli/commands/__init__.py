"""One module a command: its options and run().

Imports everything.
Outside, `cli.parser` alone imports them.
"""
