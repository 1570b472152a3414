"""What to try next and what to stop: samplers, pruners, revivals, repeats.

Each judges trials by a study's forecast (`forecast`). Nothing here starts a training or opens a
store: `search.execution` does.
"""
