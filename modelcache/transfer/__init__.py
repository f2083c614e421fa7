"""Bytes over HTTP into staging: connections, retries, ranges, hashes. Knows no Hub.

Imports core and system.
Every module may be imported.
"""
