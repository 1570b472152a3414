"""What a study and its trials are: setup and identity, names, space, lineages, run folders.

Everything else in `search` builds on this folder, and it knows of none of the others. What belongs
here is what two of them need to know about a study without asking how it is searched or shown.
"""
