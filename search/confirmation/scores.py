"""What repeats with fresh seeds came to: looks, scores, scores image by image, the tables."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.results.statistics.intervals import Interval, chance_best, interval, over_images
from search.results.statistics.sequential_plan import PlanState, plan_state
from search.results.statistics.verdicts import sentence
from search.study.attributes import CONFIGURATION, JUDGED, REPEAT
from search.study.lineages import score_of
from search.study.lookup import load_setup, study_or_none
from search.study.names import repeats_name, search_name
from search.study.repeats import confirmed_scores
from search.study.requests import marked
from search.study.run_folders import newest_claims
from search.study.setup import Setup, StudyError, config_for
from search.study.wording import tell
from storage import LeasedStorage
from trainer.data.dataset import FaceData
from trainer.files import atomic_write_text
from trainer.runtime import chosen_device
from trainer.scoring import scored_images
from trainer.streams import command_line

PARTS = ("val", "test")
IMAGES = "images.json"


def repeat_key(label: str, index: int) -> str:
    """What the attribute `REPEAT` of a configuration's repeat number `index` (from 0) holds."""
    return f"{label} #{index}"


def repeats_of(study: optuna.Study, label: str) -> list[FrozenTrial]:
    """The repeats of a configuration, by rising index."""
    found = marked(study, REPEAT)
    keys = (repeat_key(label, index) for index in itertools.count())
    return [found[key] for key in itertools.takewhile(found.__contains__, keys)]


def scores_by_repeat(study: optuna.Study, label: str) -> list[float | None]:
    """Score of each repeat before the first unfinished one; None for one that came to nothing."""
    ended = itertools.takewhile(lambda row: row.state.is_finished(), repeats_of(study, label))
    return [score_of(row) for row in ended]


def plan_state_of(study: optuna.Study) -> PlanState | None:
    """The looks at a study of repeats, as its latest run was to make them; None before a run."""
    how = study.user_attrs.get(JUDGED)
    if how is None:
        return None
    scores = {label: scores_by_repeat(study, label) for label in how["labels"]}
    return plan_state(scores, cap=how["cap"], first=how["first"], margin=how["margin"])


def verdict_text(plan: PlanState | None) -> str:
    """What the last look says, as a sentence."""
    if plan is None or not plan.look:
        return "Not judged yet: the first look has not been reached."
    return f"{sentence(plan.scores, plan.pairs)}."


def confirmed_trial(storage: LeasedStorage, name: str) -> FrozenTrial:
    """The confirmed winner of a study: of the configuration with the best mean, the repeat that
    lies nearest to that mean: what it is worth, not its luckiest seed.

    name: of the search, or of its repeats, in whose study the trial is. Raises StudyError where
    nothing was repeated.
    """
    repeats = repeats_name(name)
    words = ["python", "-m", "search.confirm", "--study", search_name(name)]
    fix = f"run {command_line(words)}"
    study = study_or_none(storage, repeats)
    if study is None:
        raise StudyError(f'there is no study "{repeats}": nothing was confirmed yet; {fix}')
    scores = confirmed_scores(study)
    if not scores:
        raise StudyError(f'study "{repeats}" has no finished repeat yet; {fix}')
    means = {label: statistics.fmean(own) for label, own in scores.items()}
    winner = max(means, key=lambda label: means[label])
    apart = {
        row.number: (abs(score - means[winner]), row)
        for row in study.get_trials(deepcopy=False)
        if row.user_attrs.get(CONFIGURATION) == winner and (score := score_of(row)) is not None
    }
    return min(apart.values(), key=lambda one: one[0])[1]


# ------------------------------------------------------------------------------- image by image


@dataclass(frozen=True)
class ByImage:
    """Scores of one repeat's best epoch on one part, image by image, in [0, 1]."""

    f_score: Sequence[float]
    f_score_full: Sequence[float]


def unscored(study: optuna.Study, runs: Path) -> Iterator[tuple[FrozenTrial, Path]]:
    """Repeats that have weights and no scores by image yet, and the folder of the weights."""
    for row in study.get_trials(deepcopy=False):
        if row.user_attrs.get(CONFIGURATION) is None or score_of(row) is None:
            continue
        folders = list(newest_claims(runs, study.study_name, [row.number]))
        if any((folder / IMAGES).is_file() for folder in folders):
            continue
        with_weights = [folder for folder in folders if (folder / "best.pt").is_file()]
        if with_weights:
            yield row, with_weights[0]


def score_images(folder: Path, setup: Setup, row: FrozenTrial, data: FaceData) -> None:
    """Score the weights in a repeat's folder on val and test, and leave the scores beside them.

    Raises CheckpointError for weights that cannot be used, DataError for an unsound mask.
    """
    config = config_for(setup, row.params, seed=0)
    device = chosen_device(config.runtime.device)
    found = {}
    for name in PARTS:
        if data.plan.parts[name]:
            reduced, full = scored_images(folder / "best.pt", data.part(name), device=device)
            found[name] = {
                "f_score": [round(score, 6) for score in reduced.image_scores()],
                "f_score_full": [round(score, 6) for score in full.image_scores()],
            }
    atomic_write_text(folder / IMAGES, json.dumps(found))


def by_image(study: optuna.Study, runs: Path) -> dict[str, dict[str, list[ByImage]]]:
    """What `score_images` has left: label -> part -> one entry a repeat."""
    found: dict[str, dict[str, list[ByImage]]] = {}
    for row in study.get_trials(deepcopy=False):
        label = row.user_attrs.get(CONFIGURATION)
        if label is None:
            continue
        for part, scores in _read(runs, study.study_name, row.number).items():
            found.setdefault(label, {}).setdefault(part, []).append(ByImage(**scores))
    return found


def _read(runs: Path, study: str, number: int) -> dict[str, Any]:
    for folder in newest_claims(runs, study, [number]):
        try:
            return dict(json.loads((folder / IMAGES).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            # an earlier owner's folder, or a file that is not whole
            continue
    return {}


# ------------------------------------------------------------------------------- the tables


def seeds_table(
    scores: Mapping[str, Sequence[float]], searched: Mapping[str, float | None], looks: int
) -> Table:
    """Each configuration over fresh seeds, the best mean first.

    scores: label -> one a seed, in [0, 1]. searched: label -> score at the search, None without.
    looks: how many were planned.
    """
    chances = chance_best(scores)
    table = _table("Over fresh seeds", "seeds", "mean", "95 % interval", "best")
    from_search = any(value is not None for value in searched.values())
    if from_search:
        table.add_column("at search", justify="right")
    for label in ordered(scores):
        own, value = scores[label], searched.get(label)
        cells = [
            str(len(own)),
            f"{statistics.fmean(own):.4f}" if own else "-",
            _span(interval(own, looks=looks)),
            f"{chances[label]:.0%}" if label in chances else "-",
        ]
        if from_search:
            cells.append("-" if value is None else f"{value:.4f}")
        table.add_row(Text(label), *cells)
    return table


def images_table(labels: Sequence[str], found: Mapping[str, Mapping[str, list[ByImage]]]) -> Table:
    """Each configuration over the images of val and test, its seeds' networks as they are."""
    table = _table("Over images", "part", "images", "f_score", "95 % interval", "f_score_full")
    for label in labels:
        for part in PARTS:
            if repeats := found.get(label, {}).get(part):
                span = over_images([one.f_score for one in repeats])
                full = [statistics.fmean(one.f_score_full) for one in repeats]
                mean = statistics.fmean(statistics.fmean(one.f_score) for one in repeats)
                count = str(len(repeats[0].f_score))
                cells = (part, count, f"{mean:.4f}", _span(span), f"{statistics.fmean(full):.4f}")
                table.add_row(Text(label), *cells)
    return table


IMAGES_COVERED = (
    "The intervals over images cover new images, with the networks at hand. On val each one's best"
    " epoch was chosen; test was read for this table alone."
)


def seeds_covered(setup: Setup) -> str:
    """What the intervals of `seeds_table` say, and what not."""
    if setup.program is not None:
        return (
            "The interval over seeds covers new seeds on the data that the program scores on; best:"
            " the chance that a configuration's mean over all seeds is the highest."
        )
    return (
        f"The interval over seeds covers new seeds on this split ({setup.data['train']} train,"
        f" {setup.data['val']} val), not new images; best: the chance that a configuration's mean"
        " over all seeds is the highest."
    )


def ordered(scores: Mapping[str, Sequence[float]]) -> list[str]:
    """Labels, the best mean first, those without a score last."""
    return sorted(scores, key=lambda label: -statistics.fmean(scores[label] or [-math.inf]))


def show(
    console: Console,
    study: optuna.Study,
    runs: Path,
    scores: Mapping[str, Sequence[float]],
    searched: Mapping[str, float | None],
    plan: PlanState,
) -> None:
    """Print both tables, the sentence between them, and what their intervals cover."""
    console.print()
    console.print(seeds_table(scores, searched, plan.looks))
    console.print()
    tell(console, verdict_text(plan), "bold")
    tell(console, seeds_covered(load_setup(study)))
    images = by_image(study, runs)
    if images:
        console.print()
        console.print(images_table(ordered(scores), images))
        console.print()
        tell(console, IMAGES_COVERED)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("configuration")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "part" else "right", no_wrap=True)
    return table


def _span(span: Interval | None) -> str:
    return "-" if span is None else f"{span.low:.4f} to {span.high:.4f}"
