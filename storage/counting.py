"""Which rows of a study count towards its budget: one rule, for SQL (`claims`) and for Python.

A module of its own, so that its names cost neither SQLAlchemy nor Optuna.
"""

from __future__ import annotations

# attributes of a row that goes on from another one, or trains the configuration of another one with
# a fresh seed, whose number they hold, and of one that was copied from another study: work that was
# counted there
CONTINUES, REPEATS, COPIED_FROM = "continues", "repeats", "copied_from"
UNCOUNTED = (CONTINUES, REPEATS, COPIED_FROM)
# of rows that workers make without a place of the budget
EXTRA = (CONTINUES, REPEATS)
# names of optuna.trial.TrialState
COUNTED_STATES = ("COMPLETE", "PRUNED")
# attribute by which the queue is ordered: higher first
PRIORITY = "priority"
