"""A root on disk: its models, their receipts and leases, and how models are replaced. No network.

Imports core, system, formats and stamp.
Every module may be imported; applications take `load`.
"""
