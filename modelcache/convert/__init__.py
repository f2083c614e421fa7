"""Pickled weights to safetensors, without torch, and without running anything.

Imports core and system.
Other packages import only `pickle_to_safetensors`.
"""
