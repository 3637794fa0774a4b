"""The commands of `figureground`, a file for each kind of thing that they are about.

Of each command, one function adds its arguments to the parser, and the next one runs it and returns its exit code.
"""
