"""From a wanted model and a repository to a pinned model: which files, and why not. Rules only.

Imports core.
Outside, `resolve`, `derived`, `kind_of` and `reasons` are imported.
"""
