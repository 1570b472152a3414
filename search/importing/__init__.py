"""Results of another trainer, as a study of their own metric.

Files of runs and tables written by hand come in here, checked and named; nothing else reads them.
"""
