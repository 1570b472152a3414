"""The result of a study of repeats, as a section of the report: as `search.confirm` prints it."""

from __future__ import annotations

from pathlib import Path

import optuna
import rich.table

from search.confirmation.scores import (
    IMAGES_COVERED,
    by_image,
    images_table,
    ordered,
    plan_state_of,
    seeds_covered,
    seeds_table,
    verdict_text,
)
from search.reporting.document import Section, Table
from search.reporting.figures.every_figure import repeats_figure
from search.study.lookup import load_setup
from search.study.repeats import confirmed_scores


def confirm_section(study: optuna.Study, runs: Path | None = None) -> Section:
    """Table, figure and sentence of a study of repeats; over images too, where they were scored.

    runs: folder of the repeats' files, None: not over images.
    """
    plan = plan_state_of(study)
    scores = plan.scores if plan is not None and plan.look else confirmed_scores(study)
    looks = 1 if plan is None else plan.looks
    if not any(scores.values()):
        return Section("confirm", "Repeated with fresh seeds", ["No repeat has finished yet."])
    sentences = [verdict_text(plan), seeds_covered(load_setup(study))]
    tables = [_plain(seeds_table(scores, {}, looks))]
    if images := {} if runs is None else by_image(study, runs):
        tables.append(_plain(images_table(ordered(scores), images)))
        sentences.append(IMAGES_COVERED)
    figure = repeats_figure(scores, looks)
    return Section(
        "confirm",
        "Repeated with fresh seeds",
        sentences,
        tables,
        figures=[] if figure is None else [figure],
    )


def _plain(table: rich.table.Table) -> Table:
    """The cells of a table for the terminal."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return Table(
        [str(column.header) for column in table.columns],
        list(zip(*columns, strict=True)),
        str(table.title or ""),
        sortable=True,
    )
