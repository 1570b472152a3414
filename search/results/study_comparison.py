"""Studies side by side: what each reached, and the tables of `search.compare`, 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from search.results.trials import Outcome, Results
from search.study import lineages
from search.study.attributes import CONFIGURATION, COPIED_FROM
from search.study.identity import differing_facts
from search.study.search_space import describe, format_value, short
from search.study.setup import Setup, base_values
from search.study.wording import duration

GRID = "data.image_size"
# shares of the highest score that all of a group reached
SHARES = (1.0, 0.99, 0.95)
ONE_SEED = (
    "A best score is the luckiest of one seed each: whether one study's best beats another's,"
    " python -m search.confirm says."
)


@dataclass(frozen=True)
class Reached:
    """When a score was reached. seconds: since the study's first trial began; None where a trial of
    another study brought it along. epochs: of all trials that had ended by then.
    """

    seconds: float | None
    epochs: int


def own_rows(results: Results) -> list[FrozenTrial]:
    """Rows that were trained in the study: nothing imported, nothing taken over."""
    if results.imported:
        return []
    return [row for row in results.rows if COPIED_FROM not in row.user_attrs]


def epochs_trained(results: Results) -> int:
    """Epochs of all rows; of imported ones as far as they are known."""
    if results.imported:
        return sum(one.metrics.get("epochs_trained") or 0 for one in results.outcomes)
    return sum(len(row.intermediate_values) for row in own_rows(results))


def work_s(results: Results) -> float | None:
    """Seconds from start to end of each trial, summed; None where none is known.

    Of a trial that was interrupted only the last run counts.
    """
    spans = [
        (lineages.utc(row.datetime_complete) - lineages.utc(row.datetime_start)).total_seconds()
        for row in own_rows(results)
        if row.datetime_start is not None and row.datetime_complete is not None
    ]
    return sum(spans) if spans else None


def first_reached(results: Results, score: float) -> Reached | None:
    """When the first complete trial ended with at least `score`, in [0, 1]; None for never.

    When imported runs were trained is not known: see `own_rows`.
    """
    if not results.imported and any(
        COPIED_FROM in row.user_attrs and _has(row, score) for row in results.rows
    ):
        return Reached(None, 0)
    rows = own_rows(results)
    ended = [
        lineages.utc(row.datetime_complete)
        for row in rows
        if row.datetime_complete is not None and _has(row, score)
    ]
    starts = [lineages.utc(row.datetime_start) for row in rows if row.datetime_start is not None]
    if not ended or not starts:
        return None
    at = min(ended)
    epochs = sum(
        len(row.intermediate_values)
        for row in rows
        if row.datetime_complete is not None and lineages.utc(row.datetime_complete) <= at
    )
    return Reached((at - min(starts)).total_seconds(), epochs)


def _has(row: FrozenTrial, score: float) -> bool:
    value = lineages.value(row)
    return row.state == TrialState.COMPLETE and value is not None and value >= score


# ---------------------------------------------------------------------------------- comparability


def incomparable_reasons(one: Results, other: Results) -> list[str]:
    """Why scores of `one` do not compare with those of `other`; empty where they do."""
    if one.setup is None:
        return [f'imported with the metric "{one.metric}", on data that nobody told']
    reasons = []
    if one.metric != other.metric:
        reasons.append(f'the metric "{one.metric}", not "{other.metric}"')
    if other.setup is None:
        return [*reasons, "trained here, not imported"]
    facts = differing_facts(one.setup, other.setup, "data", "grid")
    if "data" in facts:
        reasons.append(f"the data {data_text(one.setup)}, not {data_text(other.setup)}")
    if "grid" in facts:
        grids = [base_values(setup).get(GRID) for setup in (one.setup, other.setup)]
        reasons.append(f"scored on a grid of {grids[0]} pixels, not {grids[1]}")
    return reasons


def comparable_groups(studies: Sequence[Results]) -> list[list[int]]:
    """Indices of studies whose scores compare with each other, in their order."""
    found: list[list[int]] = []
    for index, results in enumerate(studies):
        for group in found:
            if not incomparable_reasons(results, studies[group[0]]):
                group.append(index)
                break
        else:
            found.append([index])
    return found


def data_text(setup: Setup) -> str:
    """A study's data in a few words."""
    data = setup.data
    return (
        f"{data['name']}, {data['train']} train, {data['val']} val, {str(data['fingerprint'])[:8]}"
    )


# ------------------------------------------------------------------------------------ differences


def identity(setup: Setup) -> dict[str, str]:
    """What makes a study what it is, by short names."""
    base = {short(key): format_value(value) for key, value in base_values(setup).items()}
    space = {name: describe(spec) for name, spec in setup.specs().items()}
    fixed = {f"{name} fixed": format_value(value) for name, value in setup.fixed.items()}
    search = {
        "sampler": setup.sampler,
        "pruner": setup.pruner,
        "prune_risk": format_value(setup.prune_risk),
        "revive": format_value(setup.revive),
        "spend_saved": format_value(setup.spend_saved),
        "seed": str(setup.seed),
        "preset": setup.preset or "-",
    }
    return {**base, **space, **fixed, **search}


def best_config(config: Mapping[str, Any]) -> dict[str, str]:
    """A trial's config by short names."""
    return {
        short(key): format_value(value)
        for key, value in config.items()
        # where the data lie is no setting: their fingerprint identifies them
        if key not in ("data.root", "search")
    }


def differing_keys(columns: Sequence[Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Keys whose known values differ; and for each column the keys that it alone has."""
    keys = dict.fromkeys(key for column in columns for key in column)
    differ, alone = [], [list[str]() for _ in columns]
    for key in keys:
        known = [index for index, column in enumerate(columns) if key in column]
        if len({columns[index][key] for index in known}) > 1:
            differ.append(key)
        elif len(known) == 1:
            alone[known[0]].append(key)
    return differ, alone


def repeated_trials(results: Results) -> dict[str, list[Outcome]]:
    """The trials of each configuration of a study of repeats, the best mean first.

    Empty for any other study.
    """
    found: dict[str, list[Outcome]] = {}
    for one in results.complete():
        label = one.attrs.get(CONFIGURATION)
        if label is not None:
            found.setdefault(str(label), []).append(one)
    return dict(sorted(found.items(), key=lambda item: -mean(item[1])))


def mean(outcomes: Sequence[Outcome]) -> float:
    """Their mean score."""
    return fmean(one.value for one in outcomes if one.value is not None)


def representative(results: Results) -> Outcome | None:
    """The trial that stands for a study: its best, of repeats one of the best configuration."""
    own = next(iter(repeated_trials(results).values()), None)
    return results.best if own is None else own[0]


# ------------------------------------------------------------------------------------- the tables


def print_comparison(console: Console, studies: Sequence[Results]) -> None:
    """Print the comparison of two studies or more."""
    for part in (
        *_studies_table(studies),
        *_scores_table(studies),
        *_incomparable_lines(studies),
        *_times_tables(studies),
        *_repeats_tables(studies),
        *_best_configs_table(studies),
        *_identities_table(studies),
    ):
        console.print(part)


def letter(index: int) -> str:
    """What a study is called in the tables.

    >>> letter(0), letter(25), letter(26)
    ('A', 'Z', 'A1')
    """
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def _table(*headings: str, texts: int = 1) -> Table:
    """texts: how many of the first columns hold words, not numbers."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", justify="left" if index < texts else "right")
    return table


def _titled(title: str, table: Table) -> Iterator[RenderableType]:
    # a table's own title is no wider than the table
    yield Text(f"\n{title}", style="bold")
    yield table


def _studies_table(studies: Sequence[Results]) -> Iterator[RenderableType]:
    table = _table("", "study", "metric", "data", texts=4)
    for index, results in enumerate(studies):
        data = "not told" if results.setup is None else data_text(results.setup)
        table.add_row(letter(index), results.name, results.metric, data)
    yield table


def _scores_table(studies: Sequence[Results]) -> Iterator[RenderableType]:
    headings = ("finished", "pruned", "best F", "trial", "best after", "work", "epochs")
    table = _table("", *headings)
    for index, results in enumerate(studies):
        done = lineages.finished(results.rows)
        pruned = sum(row.state == TrialState.PRUNED for row in done)
        table.add_row(
            *(letter(index), str(len(done)), str(pruned)),
            *_best_cells(results),
            "-" if (work := work_s(results)) is None else duration(work),
            str(epochs_trained(results) or "-"),
        )
    yield from _titled("What they reached", table)


def _best_cells(results: Results) -> tuple[str, str, str]:
    own = next(iter(repeated_trials(results).values()), None)
    if own is not None:
        # the highest of many repeats is luck
        return f"mean {mean(own):.4f}", "-", "-"
    best = results.best
    if best is None or best.value is None:
        return "-", "-", "-"
    when = first_reached(results, best.value)
    return f"{best.value:.4f}", str(best.number), "-" if when is None else _reached_text(when)


def _reached_text(at: Reached) -> str:
    return "taken over" if at.seconds is None else duration(at.seconds)


def _incomparable_lines(studies: Sequence[Results]) -> Iterator[str]:
    """Why scores do not compare, a line for each group of studies that stands apart."""
    first, *others = comparable_groups(studies)
    for group in others:
        why = "; ".join(incomparable_reasons(studies[group[0]], studies[first[0]]))
        these, those = (", ".join(map(letter, indices)) for indices in (group, first))
        yield f"Scores of {these} do not compare with those of {those}: {why}."


def _times_tables(studies: Sequence[Results]) -> Iterator[RenderableType]:
    """How soon studies whose scores compare reached what all of them reached."""
    shown = False
    for group in comparable_groups(studies):
        # repeats search for nothing
        searches = [index for index in group if not repeated_trials(studies[index])]
        tops = [
            best.value
            for index in searches
            if (best := studies[index].best) is not None and best.value is not None
        ]
        if len(tops) < 2:
            continue
        goals = {share: share * min(tops) for share in SHARES}
        table = _table(
            "",
            *(
                f"{goal:.4f} ({'all reached it' if share == 1 else f'{share:.0%}'})"
                for share, goal in goals.items()
            ),
        )
        for index in searches:
            found = [first_reached(studies[index], goal) for goal in goals.values()]
            cells = ("never" if at is None else f"{_reached_text(at)}, {at.epochs}" for at in found)
            table.add_row(letter(index), *cells)
        yield from _titled(
            "Time since its first trial began, and epochs of all its trials, to a score", table
        )
        shown = True
    if shown:
        yield ONE_SEED


def _repeats_tables(studies: Sequence[Results]) -> Iterator[RenderableType]:
    for index, results in enumerate(studies):
        scores = repeated_trials(results)
        if not scores:
            continue
        table = _table("configuration", "mean F", "seeds")
        for label, own in scores.items():
            table.add_row(label, f"{mean(own):.4f}", str(len(own)))
        yield from _titled(f"Repeats in {letter(index)}", table)


def _best_configs_table(studies: Sequence[Results]) -> Iterator[RenderableType]:
    bests = {index: one for index, study in enumerate(studies) if (one := representative(study))}
    if len(bests) < 2:
        return
    names = ", ".join(f"{letter(index)} {one.name}" for index, one in bests.items())
    columns = {index: best_config(one.config) for index, one in bests.items()}
    yield from _differences_table(f"How the best were trained ({names})", columns)


def _identities_table(studies: Sequence[Results]) -> Iterator[RenderableType]:
    columns = {
        index: identity(results.setup)
        for index, results in enumerate(studies)
        if results.setup is not None
    }
    if len(columns) >= 2:
        yield from _differences_table("How the studies were set up", columns)


def _differences_table(
    title: str, columns: Mapping[int, Mapping[str, str]]
) -> Iterator[RenderableType]:
    """A row for each key that differs, and a line for what is known of one alone."""
    differ, alone = differing_keys(list(columns.values()))
    if differ:
        table = _table("", *map(letter, columns))
        for key in differ:
            table.add_row(key, *(column.get(key, "-") for column in columns.values()))
        yield from _titled(f"{title}: what differs", table)
    else:
        yield f"\n{title}: no difference in what is known of more than one."
    for index, keys in zip(columns, alone, strict=True):
        if keys:
            known = ", ".join(f"{key} {columns[index][key]}" for key in keys)
            yield f"Known of {letter(index)} alone: {known}."
