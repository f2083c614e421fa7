"""Whether the parameters of a loaded model and the tensors in its weight files fit each other.

Imports core, and torch inside functions.
Other modules of check import only `coverage` and `tracing`.
"""
