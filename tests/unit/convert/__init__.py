"""Pickles to safetensors."""
