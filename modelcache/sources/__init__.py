"""Where files come from: the Hub, a directory, another root, or an image.

Imports core, system, image and transfer.
Other packages import only `hub_environment`, `hub_repository`, `directory` and `schemes`, and the type `Hub` of
`hub_api`.
"""
