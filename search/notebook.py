"""A study in a notebook: `from search import load`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.study.names import RUNS, STORAGE
from space import Choice, Float

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from search.results.trials import Outcome, Results

# of the columns that every study has
_TYPES = {
    "trial": "int64",
    "value": "float64",
    "still_rising": "boolean",
    **dict.fromkeys(("best_epoch", "epochs_trained", "seed"), "Int64"),
    **dict.fromkeys(("name", "state", "ce_dice_ratio", "note"), "string"),
}


def load(study: str | None = None, storage: str = STORAGE, runs: str | Path = RUNS) -> LoadedStudy:
    """A study as it stands now; load it again for what has come since.

    study: its name, None for the search with the latest activity. storage: URL of the store.
    runs: folder of the trials' histories; without it the curves hold the reported scores alone.
    Raises StudyError or StorageError, each with the fix in its text.
    """
    # only now: importing `search` need not wait for Optuna and SQLAlchemy
    from search.results.reading import results_of
    from search.study.lookup import latest_study, named_study
    from storage import open_storage

    with closing(open_storage(storage, read_only=True)) as store:
        name = latest_study(store) if study is None else study
        return LoadedStudy(results_of(named_study(store, name), Path(runs)))


@dataclass(frozen=True, repr=False)
class LoadedStudy:
    """What a study came to; `results` is the same as plain Python objects."""

    results: Results

    def __repr__(self) -> str:
        count, best = len(self.results.outcomes), self.best
        state = "no complete trial" if best is None else f"best {best.value:.4f} ({best.name})"
        return f"<study {self.name}: {count} trials, {state}>"

    @property
    def name(self) -> str:
        """The study's name."""
        return self.results.name

    @property
    def best(self) -> Outcome | None:
        """The complete trial with the highest value, None while there is none."""
        return self.results.best

    def table(self) -> pd.DataFrame:
        """A row a trial: trial, name, state, value, the seed's table, parameters, seed, note.

        Scores in [0, 1], unrounded. Raises ImportError without pandas.
        """
        from search.results import export_formats

        pandas = _pandas()
        heads, rows = export_formats.table(self.results)
        columns = {head: [row[index] for row in rows] for index, head in enumerate(heads)}
        return pandas.DataFrame(
            {
                head: pandas.Series(column, dtype=self._type(head, column))
                for head, column in columns.items()
            }
        )

    def curves(self) -> pd.DataFrame:
        """A row an epoch of each trial: trial, epoch (from 1), val_f, and what its history has.

        Raises ImportError without pandas.
        """
        pandas = _pandas()
        outcomes = self.results.outcomes
        names = dict.fromkeys(["val_f", *(name for one in outcomes for name in one.series)])
        rows = [
            [one.number, epoch, *(one.series.get(name, {}).get(epoch) for name in names)]
            for one in outcomes
            for epoch in sorted({epoch for curve in one.series.values() for epoch in curve})
        ]
        types = {"trial": "int64", "epoch": "int64", **dict.fromkeys(names, "float64")}
        return pandas.DataFrame(rows, columns=list(types)).astype(types)

    def figures(self) -> dict[str, go.Figure]:
        """The report's pictures by topic, as plotly figures."""
        from search.reporting.figures.every_figure import figures
        from search.results.evidence import Evidence

        return figures(Evidence(self.results))

    def findings(self) -> list[str]:
        """The report's sentences."""
        from search.results.evidence import Evidence
        from search.results.findings.every_finding import findings

        return [text for own in findings(Evidence(self.results)).values() for text in own]

    def _type(self, head: str, column: Sequence[Any]) -> str:
        if head in _TYPES:
            return _TYPES[head]
        from search.study.training_metrics import COLUMNS

        if head in COLUMNS:
            return "float64"
        spec = None if self.results.setup is None else self.results.setup.specs().get(head)
        if isinstance(spec, Float):
            return "float64"
        # what may come decides too: a column keeps its type while a study grows
        to_come = spec.choices if isinstance(spec, Choice) else [spec.low] if spec else []
        return _type_of([*column, *to_come])


def _type_of(items: Sequence[Any]) -> str:
    """The pandas type that holds these, None among them, and changes none."""
    kinds = {type(item) for item in items if item is not None}
    if kinds == {int, float}:
        return "float64"
    named = {int: "Int64", float: "float64", bool: "boolean", str: "string"}
    return named.get(kinds.pop(), "object") if len(kinds) == 1 else "object"


def _pandas() -> Any:
    try:
        import pandas
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise ImportError(
            "a table needs pandas, which is not installed: pip install .[notebook]"
        ) from error
    return pandas
