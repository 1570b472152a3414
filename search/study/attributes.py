"""What a study and its trials keep in attributes: every key that two modules share, in one place.

A key is stored for good: it may get a better constant here, never another text.
"""

from __future__ import annotations

# ------------------------------------------------------------------------------- of a study

# what it remembers, how many finished trials it should reach, and how repeats are judged (labels,
# cap, first and margin of the looks, see `search.results.statistics.sequential_plan`)
SETUP, TOTAL, JUDGED = "setup", "total", "judged"
# stands on a rebuilt study from its first moment; until its setup stands beside it, it is half made
REBUILT = "rebuilt"
IMPORTED = "imported"
# what its workers keep to, and the mark that asks them to leave
LEASE, DRAIN = "lease", "drain"

# ------------------------------------------------------------------------------- of a trial

# the number of the row that this one goes on from, and STUDY/NUMBER of the trial that it repeats
CONTINUES, COPIED_FROM = "continues", "copied_from"
# the constraint of a trial whose loss stopped being a number
DIVERGED = "diverged"
# why it was pruned, in numbers, see `search.study.verdicts`
VERDICT = "verdict"
# of a row that stands for a number of which nothing is left; its value is the reason
LOST = "lost"
# a request, a first trial, a repeat (configuration and slot): each is made once by this mark
ENQUEUED, FIRST, REPEAT = "enqueued", "first", "repeat"
# of a repeat: the label of the configuration that it repeats
CONFIGURATION = "configuration"

# ------------------------------------------------------------------------------- of an imported one

# its run's name, all that is known of its config (flat, by dotted name), what was recorded each
# epoch (name -> one number per epoch, from the first on), the run whose weights it started from,
# and the hash by which a run is known again
RUN, CONFIG, SERIES, CONTINUED, CONTENT = "run", "config", "series", "continued_from", "content"
