"""Where files come from: the Hub, or a directory.

Imports core, system, formats and transfer.
Other packages import only `hub_environment`, `hub_repository` and `directory`.
"""
