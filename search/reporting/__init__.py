"""What users read of a study: report, model card, dashboard notes, the end of a run.

A document is data (`document`); `html` and `markdown` write it, `figures` draws.
"""
