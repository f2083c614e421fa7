"""Values, names, rules and errors; no file, no socket, no clock, no environment.

Imports nothing of ours.
Every module may be imported.
"""
