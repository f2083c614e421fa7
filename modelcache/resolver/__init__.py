"""From a wanted model and a repository to a pinned model, or to the reasons against it. Rules only.

Imports core.
Outside, `resolve` and `derived` are imported.
"""
