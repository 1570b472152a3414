"""Training programs: the one contract by which a search trains, and what keeps it.

`contract` says what a training is given, tells and leaves; `faces` is our own trainer, `command` a
program of the user's, `function` a function of theirs: nothing else of `search` asks which it is.
How a program tells its scores, and what its config and space look like in files, is read here too.
"""
