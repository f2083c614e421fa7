"""The command line: it alone prints, exits and reads options.

Imports everything.
Outside, `main` alone is imported.
"""
