"""The sandbox that keeps a model's code away from the network, from other files and from other processes.

Imports system alone.
Other modules of check import only `sandbox`, `isolation` and `library_paths`.
"""
