"""Where files come from: the Hub, or a directory.

Imports core, system and transfer.
Other packages import only `hub_environment`, `hub_repository` and `directory`, and the type `Hub` of `hub_api`.
"""
