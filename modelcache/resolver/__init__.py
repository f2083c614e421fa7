"""From a wanted model and a repository to a pinned model, or to the reasons against it. Rules only.

Imports core.
Other packages import only `resolve` and `derived`.
"""
