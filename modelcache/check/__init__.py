"""Whether a published model loads with no network, and gives the recorded numbers.

Imports core, system and store.
Other packages import only `launcher`, `golden`, `verdict` and `pip_packages`.
"""
