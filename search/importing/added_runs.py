"""What an import has added, for the terminal."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console
from rich.table import Column, Table

from search.results.reading import print_troubles
from search.results.trials import Results
from search.study.training_metrics import text


def print_added(results: Results, numbers: Collection[int]) -> None:
    """The runs of an imported study that have these numbers, the best first."""
    print_troubles([results])
    # a run's name may hold brackets or :words:
    console = Console(highlight=False, markup=False, emoji=False)
    measured = [Column(name, justify="right", no_wrap=True) for name in ("best F", "at", "epochs")]
    table = Table(
        Column("run", overflow="fold"),
        *measured,
        Column(overflow="fold"),
        box=None,
        padding=(0, 1, 0, 0),
    )
    runs = [one for one in results.complete() if one.number in numbers]
    for one in runs:
        marks = ["still rising"] if one.metrics["still_rising"] else []
        marks += ["continued"] if one.continued else []
        trained, planned = one.metrics["epochs_trained"], one.config.get("training.epochs")
        known = trained is not None or planned is not None
        table.add_row(
            one.name,
            *(text(name, one.metrics[name]) for name in ("best_val_f", "best_epoch")),
            f"{trained or '-'} of {planned or '-'}" if known else "-",
            ", ".join(marks),
        )
    console.print(table)
    for one in runs:
        if one.continued:
            console.print(f"{one.name} started from the weights of {one.continued}")
