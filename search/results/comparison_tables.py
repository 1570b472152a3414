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
    answer,
    apart,
    best_config,
    data_text,
    differing,
    epochs_trained,
    groups,
    identity,
    mean,
    reached,
    repeats,
    work_s,
)
from search.results.trials import Results
from search.study import lineages
from search.study.wording import duration

ONE_SEED = (
    "A best score is the luckiest of one seed each: whether one study's best beats another's,"
    " python -m search.confirm says."
)


def compare(console: Console, studies: Sequence[Results]) -> None:
    """Print the comparison of two studies or more."""
    for part in (
        *_what(studies),
        *_standing(studies),
        *_not_comparable(studies),
        *_times(studies),
        *_repeats(studies),
        *_best_configs(studies),
        *_identities(studies),
    ):
        console.print(part)


def letter(place: int) -> str:
    """How a study is called in the tables.

    >>> letter(0), letter(25), letter(26)
    ('A', 'Z', 'A1')
    """
    return chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")


def _table(*headings: str, texts: int = 1) -> Table:
    """texts: how many of the first columns hold words, not numbers."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", justify="left" if place < texts else "right")
    return table


def _titled(title: str, table: Table) -> Iterator[RenderableType]:
    # a table's own title is no wider than the table
    yield Text(f"\n{title}", style="bold")
    yield table


def _what(studies: Sequence[Results]) -> Iterator[RenderableType]:
    table = _table("", "study", "metric", "data", texts=4)
    for place, results in enumerate(studies):
        data = "not told" if results.setup is None else data_text(results.setup)
        table.add_row(letter(place), results.name, results.metric, data)
    yield table


def _standing(studies: Sequence[Results]) -> Iterator[RenderableType]:
    headings = ("finished", "pruned", "best F", "trial", "best after", "work", "epochs")
    table = _table("", *headings)
    for place, results in enumerate(studies):
        done = lineages.finished(results.rows)
        pruned = sum(row.state == TrialState.PRUNED for row in done)
        table.add_row(
            *(letter(place), str(len(done)), str(pruned)),
            *_best_cells(results),
            _time(work_s(results)),
            str(epochs_trained(results) or "-"),
        )
    yield from _titled("What they reached", table)


def _best_cells(results: Results) -> tuple[str, str, str]:
    own = next(iter(repeats(results).values()), None)
    if own is not None:
        # the highest of many repeats is luck
        return f"mean {mean(own):.4f}", "-", "-"
    best = results.best
    if best is None or best.value is None:
        return "-", "-", "-"
    when = reached(results, best.value)
    return f"{best.value:.4f}", str(best.number), "-" if when is None else _when(when)


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def _when(at: Reached) -> str:
    return "taken over" if at.seconds is None else duration(at.seconds)


def _not_comparable(studies: Sequence[Results]) -> Iterator[str]:
    """Why scores do not compare, a line for each group of studies that stands apart."""
    first, *others = groups(studies)
    for group in others:
        why = "; ".join(apart(studies[group[0]], studies[first[0]]))
        these, those = (", ".join(map(letter, places)) for places in (group, first))
        yield f"Scores of {these} do not compare with those of {those}: {why}."


def _times(studies: Sequence[Results]) -> Iterator[RenderableType]:
    """How soon studies whose scores compare reached what all of them reached."""
    told = False
    for group in groups(studies):
        # repeats search for nothing
        searches = [place for place in group if not repeats(studies[place])]
        tops = [
            best.value
            for place in searches
            if (best := studies[place].best) is not None and best.value is not None
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
        for place in searches:
            found = [reached(studies[place], goal) for goal in goals.values()]
            cells = ("never" if at is None else f"{_when(at)}, {at.epochs}" for at in found)
            table.add_row(letter(place), *cells)
        yield from _titled(
            "Time since its first trial began, and epochs of all its trials, to a score", table
        )
        told = True
    if told:
        yield ONE_SEED


def _repeats(studies: Sequence[Results]) -> Iterator[RenderableType]:
    for place, results in enumerate(studies):
        scores = repeats(results)
        if not scores:
            continue
        table = _table("configuration", "mean F", "seeds")
        for label, own in scores.items():
            table.add_row(label, f"{mean(own):.4f}", str(len(own)))
        yield from _titled(f"Repeats in {letter(place)}", table)


def _best_configs(studies: Sequence[Results]) -> Iterator[RenderableType]:
    bests = {place: one for place, study in enumerate(studies) if (one := answer(study))}
    if len(bests) < 2:
        return
    names = ", ".join(f"{letter(place)} {one.name}" for place, one in bests.items())
    columns = {place: best_config(one.config) for place, one in bests.items()}
    yield from _differences(f"How the best were trained ({names})", columns)


def _identities(studies: Sequence[Results]) -> Iterator[RenderableType]:
    columns = {
        place: identity(results.setup)
        for place, results in enumerate(studies)
        if results.setup is not None
    }
    if len(columns) >= 2:
        yield from _differences("How the studies were set up", columns)


def _differences(title: str, columns: Mapping[int, Mapping[str, str]]) -> Iterator[RenderableType]:
    """A row for each key that differs, and a line for what one alone tells."""
    differ, alone = differing(list(columns.values()))
    if differ:
        table = _table("", *map(letter, columns))
        for key in differ:
            table.add_row(key, *(column.get(key, "-") for column in columns.values()))
        yield from _titled(f"{title}: what differs", table)
    else:
        yield f"\n{title}: no difference in what is known of more than one."
    for place, keys in zip(columns, alone, strict=True):
        if keys:
            told = ", ".join(f"{key} {columns[place][key]}" for key in keys)
            yield f"Known of {letter(place)} alone: {told}."
