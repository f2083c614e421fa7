"""An application that loads its models by their ids from the Hub view of a root, whatever version its libraries have.

`applications` has the repositories and the lines of an application, `outputs` asks an interpreter what they give, and
`child` is the program that it starts, which imports nothing of the tests but what has no settings.
"""
