"""What to search next: ranges to widen or to narrow, and the command that does it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import space
from search.results.evidence import Evidence, sides, smoothed
from search.results.findings.search_flags import (
    config_file_flags,
    config_flags,
    fix_texts,
    program_flags,
    range_texts,
    search_flags,
)
from search.results.trials import Outcome
from search.results.wording import listed, number
from search.study.lineages import finished
from search.study.names import is_repeats
from search.study.ranges import (
    EDGE,
    SIDES,
    Range,
    is_at_edge,
    is_trainable,
    longer,
    moved,
    width,
    with_ends,
)
from search.study.run_folders import trial_folder
from search.study.search_space import describe
from search.study.setup import Setup, config_for
from search.study.widenings import widenings_of
from storage import redact

# fewer judged trials than this say nothing about a range
_LEAST = 10
# a range that would lose less than this share of itself stays
_LEAST_CUT = 0.2
# fewer trials leave nothing to take the other parameters out of
_LEAST_TO_CUT = 30
_FEWEST_TRIALS = 20


@dataclass(frozen=True)
class Change:
    """Another range for a parameter. why: a clause with numbers."""

    name: str
    before: Range
    after: Range
    why: str

    @property
    def wider(self) -> bool:
        return self.after.low < self.before.low or self.after.high > self.before.high

    @property
    def text(self) -> str:
        verb = "widen" if self.wider else "narrow"
        return (
            f"{verb} {self.name} from {describe(self.before)} to {describe(self.after)}: {self.why}"
        )


def advice_sentences(seen: Evidence) -> list[str]:
    """What the next search should do otherwise, and why."""
    results = seen.results
    if is_repeats(results.name):
        return ["These are repeats of chosen configurations: they give no ranges for a search."]
    if results.setup is None:
        return [_for_imported(seen)]
    judged = seen.counted_text(seen.judged)
    if len(seen.judged) < _LEAST:
        return [f"With {judged} no range can be judged, ten are needed: go on with the same study."]
    found = changes(seen)
    more = [*_widened_sentences(results.setup), *_unsearched_sentences(results.setup)]
    if not found:
        edge = "nowhere do the best few lie at an edge"
        if len(seen.complete) < _LEAST:
            edge = "whether the best few lie at an edge is not judged below ten complete trials"
        return [
            f"No range asks for a change after {judged.rstrip(',')}: {edge},"
            " and no part of a range is shown to be worse. Go on with the same"
            " study, or repeat the best with other seeds (python -m search.confirm).",
            *more,
        ]
    return [f"For the next search: {'; '.join(change.text for change in found)}.", *more]


def _widened_sentences(setup: Setup) -> list[str]:
    """What the search has widened by itself."""
    return [
        f"The search itself changed a range: {one.text}"
        f" ({one.worker}, {(one.at or '')[:16].replace('T', ' ')} UTC)."
        for one in widenings_of(setup)
    ]


def _for_imported(seen: Evidence) -> str:
    _, above = sides(seen.levels)
    weights = sorted({group.weight or 0.0 for group in [*seen.core, *above[:1]]})
    text = "These are imported results on a score of their own, so no search can start from them"
    if len(weights) < 2:
        return f"{text}; run the configurations of interest again, several seeds each."
    values = ",".join(number(weight) for weight in weights)
    return (
        f"{text}. To decide between the dice weights, repeat them with fresh seeds and all else"
        f" equal: python -m search.confirm --compare dice_weight={values} (add --data with the"
        " faces' folder)."
    )


# ------------------------------------------------------------------------- keys not searched


def unsearched(setup: Setup) -> dict[str, tuple[space.Float, str]]:
    """Keys that a search left at one value and that moved the score most where they were tried.

    Name -> a range around that value, and what is known. Figures: `scripts/benchmarks/README.md`,
    "What each ingredient brings" and "Tried and dropped".
    """
    if setup.program is not None:
        return {}
    config = config_for(setup, setup.defaults, seed=0)
    rate, rotation = config.training.learning_rate, config.augmentation.rotation
    known = {
        "learning_rate": (
            space.Float(float(f"{rate / 4:.3g}"), float(f"{4 * rate:.3g}"), log=True),
            "below the right one small parts may not appear: .58 to .81 with six seeds at 3e-3",
        ),
        "rotation": (
            space.Float(0.0, max(10.0, 2 * rotation)),
            "in 2,040 steps none, and no change of scale, brought three standard deviations"
            " between seeds; longer trainings need some",
        ),
    }
    if rotation == 0:
        # there is none that could cost anything
        del known["rotation"]
    return {
        name: own
        for name, own in known.items()
        if name not in setup.specs() and is_trainable(setup, name, own[0])
    }


def _unsearched_sentences(setup: Setup) -> list[str]:
    known = unsearched(setup)
    if not known:
        return []
    texts = [f"{name} ({why})" for name, (_, why) in known.items()]
    return [f"Not searched here, and likely to matter: {listed(texts)}."]


# ------------------------------------------------------------------------------------- ranges


def changes(seen: Evidence) -> list[Change]:
    """Ranges that the next search should have otherwise. Empty where the data ask for none."""
    setup, judged = seen.results.setup, seen.judged
    if setup is None or len(judged) < _LEAST:
        return []
    found = []
    for name, spec in setup.specs().items():
        if isinstance(spec, space.Choice) or name in setup.fixed:
            continue
        having = [one for one in judged if _has_effect(one, name)]
        # the best few are complete ones; of fewer than ten they lie at an edge too often by chance
        ended = [one for one in having if one.complete] if len(seen.complete) >= _LEAST else []
        change = _widened(setup, name, spec, ended) or _narrowed(seen, name, spec, having)
        if change is not None:
            found.append(change)
    return found


def _has_effect(outcome: Outcome, name: str) -> bool:
    """Whether a trial has a number there that acted: the ramp does nothing under a constant."""
    inert = name == "dice_ramp" and outcome.config.get("loss.dice_schedule") == "constant"
    return isinstance(outcome.params.get(name), (int, float)) and not inert


def _widened(setup: Setup, name: str, spec: Range, having: Sequence[Outcome]) -> Change | None:
    """The range widened at an end where the best few lie."""
    few = having[: max(3, min(10, round(0.1 * len(having))))]
    needed = max(3, math.ceil(2 * len(few) / 3))
    for side in SIDES:
        # a value taken from the base config does not show where the search was drawn to
        outer = [
            one
            for one in few
            if is_at_edge(spec, float(one.params[name]), side)
            and one.params[name] != setup.defaults.get(name)
        ]
        if len(outer) < needed:
            continue
        wider = longer(setup, name, spec, side)
        if wider is None:
            return None
        values = listed([number(float(one.params[name])) for one in outer])
        why = f"{len(outer)} of the best {len(few)} trials lie in its {side} tenth ({values})"
        return Change(name, spec, wider, why)
    return None


def _narrowed(seen: Evidence, name: str, spec: Range, having: Sequence[Outcome]) -> Change | None:
    """The range without the parts whose mean score lies below the top's, bands apart."""
    if len(having) < _LEAST_TO_CUT:
        return None
    curve = smoothed(having, name, seen.scores_of, log=spec.log)
    if curve is None:
        return None
    kept = curve.x[curve.high >= curve.low.max()]
    best = float(having[0].params[name])
    # what is near the top may be as good
    low = moved(spec, min(best, float(kept[0])), -EDGE)
    high = moved(spec, max(best, float(kept[-1])), EDGE)
    # beyond the trials nothing is known
    low = low if low > max(curve.x[0], spec.low) else spec.low
    high = high if high < min(curve.x[-1], spec.high) else spec.high
    if width(spec, low, high) > (1 - _LEAST_CUT) * width(spec, spec.low, spec.high):
        return None
    after = with_ends(spec, low, high)
    if after is None:
        return None
    why = (
        f"the mean score is highest at {number(curve.best)}, and outside it lies below that with"
        f" 95 % bands that do not meet ({seen.counted_text(having).rstrip(',')})"
    )
    return Change(name, spec, after, why)


# --------------------------------------------------------------------------------- the command


def next_command(
    evidence: Evidence, storage: str, runs: str, *, more: bool = False
) -> list[str] | None:
    """The words of the command that starts the search that the advice speaks of.

    Where ranges change it is a study of its own, which takes over the trials of this one; else it
    goes on with this one. more: search what was not searched, too, see `unsearched`; such a study
    tries the best configurations of this one first. None for imported results and repeats, where
    the study's config cannot be told by flags and lies in no file of the runs folder, and where
    there is nothing more to search. Passwords are left out.
    """
    results = evidence.results
    setup = results.setup
    if setup is None or is_repeats(results.name):
        return None
    changed = {change.name: change.after for change in changes(evidence)}
    if more:
        added = {name: spec for name, (spec, _) in unsearched(setup).items()}
        if not added:
            return None
        changed |= added
    ended = len(finished(results.rows))
    words = [sys.executable, "-m", "search.run"]
    if changed:
        new, trials = _next_name(setup.name, Path(runs)), max(_FEWEST_TRIALS, ended)
        words += ["--study", new, "--from", setup.name, "--trials", str(trials)]
    else:
        words += ["--study", setup.name, "--trials", str(ended + _FEWEST_TRIALS)]
    words += ["--storage", redact(storage), "--runs", runs]
    if setup.program is not None:
        return words + program_flags(setup, setup.program, changed) + search_flags(setup)
    own = config_flags(setup) or config_file_flags(results, setup, Path(runs))
    if own is None:
        return None
    for text in fix_texts(setup):
        words += ["--fix", text]
    for text in range_texts(setup, changed):
        words += ["--range", text]
    return words + own + search_flags(setup)


def _next_name(name: str, runs: Path) -> str:
    """faces -> faces-2 -> faces-3, the first whose folder is free."""
    stem, dash, end = name.rpartition("-")
    stem, number_ = (stem, int(end) + 1) if dash and end.isdecimal() else (name, 2)
    # an image size is no count
    if number_ > 16:
        stem, number_ = name, 2
    while trial_folder(runs, f"{stem}-{number_}", 0).parent.exists():
        number_ += 1
    return f"{stem}-{number_}"
