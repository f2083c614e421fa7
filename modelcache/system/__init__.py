"""Linux: files, memory, threads, system calls; knows nothing of models.

Imports core.
Every module may be imported.
"""
