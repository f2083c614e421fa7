"""Where files come from: the Hub, or a directory.

Imports core, system, formats and transfer.
Outside, `hub_environment`, `hub_repository` and `directory` are imported.
"""
