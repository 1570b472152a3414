"""Training programs, ours and any other's: how they are started, and read.

How a program tells its scores, what its config and its search space look like in files. Nothing
here knows of a study's trials or its store.
"""
