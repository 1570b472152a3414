"""The tables of `search.compare`, as wide as 80 columns at most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from optuna.trial import TrialState
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from search.results.study_comparison import (
    SHARES,
    Reached,
    best_config,
    comparable_groups,
    data_text,
    differing_keys,
    epochs_trained,
    first_reached,
    identity,
    incomparable_reasons,
    mean,
    repeated_trials,
    representative,
    work_s,
)
from search.results.trials import Results
from search.study import lineages
from search.study.wording import duration

ONE_SEED = (
    "A best score is the luckiest of one seed each: whether one study's best beats another's,"
    " python -m search.confirm says."
)


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
            _duration_text(work_s(results)),
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


def _duration_text(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


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
