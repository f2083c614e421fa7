"""The command line: it alone prints, exits and reads options.

Imports everything.
Other packages import only `main`.
"""
