"""Training programs to start from when you search your own: as functions, and as commands.

Each has its config and its search space beside it.
"""
