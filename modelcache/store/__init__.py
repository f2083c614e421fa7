"""A root on disk: what is there, who writes it, how it is replaced. No network.

Imports core, system, formats and stamp.
Every module may be imported; applications take `load`.
"""
