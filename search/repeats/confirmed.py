"""What repeats with fresh seeds came to: scores, scores image by image, the tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search import lineage
from search.records import token_folders_of
from search.repeats import Interval, chance_best, interval, over_images
from search.study import Setup, config_for, load_setup, trial_folder
from trainer.data.dataset import FaceData
from trainer.files import atomic_write_text
from trainer.runtime import choose_runtime
from trainer.scoring import scored_images

# attribute of a repeat: the label of what it repeats
CONFIGURATION = "configuration"
PARTS = ("val", "test")
IMAGES = "images.json"


def score_of(row: FrozenTrial) -> float | None:
    """A repeat's score, in [0, 1]; None where it was not trained to its end.

    One whose loss stopped being a number counts with its best epoch: that is what this
    configuration gave with this seed.
    """
    if row.state == TrialState.COMPLETE or lineage.diverged(row):
        return lineage.value(row)
    return None


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
        folders = token_folders_of(trial_folder(runs, study.study_name, row.number))
        if any((folder / IMAGES).is_file() for folder in folders):
            continue
        with_weights = [folder for folder in folders if (folder / "best.pt").is_file()]
        if with_weights:
            yield row, with_weights[-1]


def score_images(folder: Path, setup: Setup, row: FrozenTrial, data: FaceData) -> None:
    """Score the weights in a repeat's folder on val and test, and leave the scores beside them.

    Raises CheckpointError for weights that cannot be used, DataError for an unsound mask.
    """
    config = config_for(setup, row.params, seed=0)
    device = choose_runtime(config).runtime.device
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
        for part, scores in _read(trial_folder(runs, study.study_name, row.number)).items():
            found.setdefault(label, {}).setdefault(part, []).append(ByImage(**scores))
    return found


def _read(folder: Path) -> dict[str, Any]:
    for token in reversed(token_folders_of(folder)):
        try:
            return dict(json.loads((token / IMAGES).read_text(encoding="utf-8")))
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


def ordered(scores: Mapping[str, Sequence[float]]) -> list[str]:
    """Labels, the best mean first, those without a score last."""
    return sorted(scores, key=lambda label: -statistics.fmean(scores[label] or [0.0]))


def show(
    console: Console,
    study: optuna.Study,
    runs: Path,
    scores: Mapping[str, Sequence[float]],
    searched: Mapping[str, float | None],
    said: str,
    looks: int,
) -> None:
    """Print both tables and what their intervals cover. said: the sentence between them."""
    data = load_setup(study).data
    console.print(seeds_table(scores, searched, looks))
    console.print(Text(said, style="bold"))
    covers = (
        f"The interval covers new seeds on this split ({data['train']} train, {data['val']} val),"
        " not new images; best: the chance that its mean over all seeds is the highest."
    )
    console.print(covers, markup=False, highlight=False)
    images = by_image(study, runs)
    if images:
        console.print()
        console.print(images_table(ordered(scores), images))
        console.print(
            "These cover new images, with the networks at hand. On val each one's best epoch was"
            " chosen; test was read for this table alone.",
            markup=False,
            highlight=False,
        )


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("configuration")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "part" else "right", no_wrap=True)
    return table


def _span(span: Interval | None) -> str:
    return "-" if span is None else f"{span.low:.4f} to {span.high:.4f}"
