"""Pickled weights to safetensors, without torch, and without running anything.

Imports core and system.
Outside, `pickle_to_safetensors` alone is imported.
"""
