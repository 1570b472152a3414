"""What a study and its trials keep in attributes: every key, and trials' attributes typed.

A key is stored for good: it may get a better constant here, never another text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from storage.counting import CONTINUES as CONTINUES
from storage.counting import COPIED_FROM as COPIED_FROM
from storage.counting import PRIORITY as PRIORITY
from storage.counting import REPEATS as REPEATS

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

# the constraint of a trial whose loss stopped being a number
DIVERGED = "diverged"
# why it was pruned, in numbers, see `search.study.verdicts`
VERDICT = "verdict"
# of a row that stands for a number of which nothing is left; its value is the reason
LOST = "lost"
# a request, a first trial, a repeat (configuration and slot): each is made once by this mark
ENQUEUED, FIRST, REPEAT = "enqueued", "first", "repeat"
# of a repeat in a study of repeats: the label of the configuration that it repeats
CONFIGURATION = "configuration"
# of a repeat within a search (`REPEATS` holds the number of its trial): by how much it was expected
# to improve the answer, in standard deviations between seeds
GAIN = "gain"
# what was written beside an enqueued trial: text, the user's [low, high] of its score, and what the
# seed's table says of it
NOTE, EXPECT, PREDICTION = "note", "expect", "prediction"
# how it trains: seed, what it was computed with, a warning where that has changed, and pictures in
# each part of a batch where a whole one did not fit
SEED, RUNTIME, RUNTIME_CHANGED, MICRO_BATCH = "seed", "runtime", "runtime_changed", "micro_batch"
# how it ended: why, how often an exception interrupted it, the last one's traceback, and whether
# the user ended it or withdrew it
REASON, EXCEPTIONS, TRACEBACK = "reason", "exceptions", "traceback"
STOPPED, CANCELLED = "stopped", "cancelled"
# its scores, in [0, 1]; the others are `search.study.training_metrics.COLUMNS`
F_SCORE_FULL, F_LARGE, F_SMALL = "f_score_full", "f_large", "f_small"

# ------------------------------------------------------------------------------- of an imported one

# its run's name, all that is known of its config (flat, by dotted name), what was recorded each
# epoch (name -> one number per epoch, from the first on), the run whose weights it started from,
# and the hash by which a run is known again
RUN, CONFIG, SERIES, CONTINUED, CONTENT = "run", "config", "series", "continued_from", "content"
# what the other trainer did not read, the name of its file, and what it called the experiment
IGNORED, SOURCE, EXPERIMENT = "ignored", "source", "experiment"


@dataclass(frozen=True)
class TrialAttributes:
    """A trial's user attributes, each under its stored key; see the constants for what they are.

    continues: number of a row. repeats: number of a trial. copied_from: STUDY/NUMBER. cancelled: a
    text is the reason.
    best_val_f, best_epoch: score, in [0, 1], and number of the best epoch, from 1, of all rows.
    """

    continues: int | None = None
    repeats: int | None = None
    gain: float | None = None
    copied_from: str | None = None
    configuration: str | None = None
    priority: float | None = None
    note: str | None = None
    expect: Sequence[float] | None = None
    prediction: str | None = None
    seed: int | None = None
    runtime: Mapping[str, Any] | None = None
    runtime_changed: str | None = None
    micro_batch: int | None = None
    reason: str | None = None
    verdict: Mapping[str, Any] | None = None
    exceptions: int = 0
    traceback: str | None = None
    stopped: bool = False
    cancelled: bool | str = False
    f_score_full: float | None = None
    f_large: float | None = None
    f_small: float | None = None
    best_val_f: float | None = None
    best_epoch: int | None = None
    still_rising: bool | None = None


_KEYS = tuple(known.name for known in fields(TrialAttributes))


def attributes_of(stored: Mapping[str, Any]) -> TrialAttributes:
    """A trial's attributes from its `user_attrs`."""
    return TrialAttributes(**{key: stored[key] for key in _KEYS if key in stored})


def is_imported(study_attrs: Mapping[str, Any]) -> bool:
    """Whether a study holds results of another trainer."""
    return bool(study_attrs.get(IMPORTED)) and SETUP not in study_attrs
