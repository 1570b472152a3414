"""What a study came to: its trials as one view, sentences about them, comparisons, export formats.

Reads studies and never writes to one. How it is drawn is `search.reporting`.
"""
