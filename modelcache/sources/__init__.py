"""Where files come from: the Hub, a directory, another root, or an image; a registry takes images, too.

Imports core, system, image and transfer.
Other packages import only `hub_environment`, `hub_repository`, `directory`, `registry` and `schemes`, and the types
`Hub` of `hub_api` and `RegistryRepository` of `registry_api`.
"""
