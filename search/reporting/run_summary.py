"""The end of a run: the table of the best trials, importance, and the commands that come next."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from search.study import lineages, training_metrics
from search.study.attributes import F_SCORE_FULL
from search.study.lineages import repeats, revivals
from search.study.names import RUNS, STORAGE
from search.study.repeats import repeats_text
from search.study.setup import Setup
from search.study.wording import counted, params_text, tell
from search.trainers.configs import with_meaning
from storage import redact
from trainer.presets import DEMO_WARNING
from trainer.streams import command_line


def command(module: str, *, storage: str, runs: str, study: str | None = None) -> str:
    """A command that can be pasted: this interpreter, and only flags that differ from defaults."""
    words = [sys.executable, "-m", module]
    if storage != STORAGE:
        words += ["--storage", redact(storage)]
    if runs != RUNS and module != "search.export":
        words += ["--runs", runs]
    if study is not None:
        words += ["--study", study]
    return command_line(words)


def commands(setup: Setup, *, storage: str, runs: str) -> dict[str, str]:
    """What one does next with a study -> the command."""

    def of(module: str) -> str:
        return command(module, storage=storage, runs=runs, study=setup.name)

    repeatable = setup.program is None or setup.program.takes_seeds
    return {
        "watch": command("search.dashboard", storage=storage, runs=runs),
        "report": f"{of('search.report')} --out report.html",
        **({"confirm": of("search.confirm")} if repeatable else {}),
        "export": f"{of('search.export')} --out best.yaml",
    }


def best_trials_table(study: optuna.Study, count: int = 5, score: str | None = None) -> Table:
    """The seed's table for the best trials: a column a trial, so that it fits 80 columns.

    score: as in `training_metrics.columns`.
    """
    rows = training_metrics.rows(study, count)
    table = Table(title="The best trials", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for row in rows:
        table.add_column(f"trial {row['trial']}", justify="right")
    for heading, cells in training_metrics.across(rows, score):
        table.add_row(heading, *cells)
    return table


def summary(
    console: Console, study: optuna.Study, setup: Setup, *, storage: str, runs: str
) -> None:
    """Print the end of a run."""
    trials = study.get_trials(deepcopy=False)
    done = lineages.finished(trials)
    pruned = [trial for trial in done if trial.state == TrialState.PRUNED]
    if done:
        revived, again = revivals(trials), repeats(trials)
        trained = sum(len(trial.intermediate_values) for trial in [*done, *revived, *again])
        budget = len(done) * setup.epochs
        tell(
            console,
            f"{counted(len(done), 'finished trial')}, {len(pruned)} pruned"
            f" ({len(pruned) / len(done):.0%});"
            f" {trained} of {budget} epochs trained ({trained / budget:.0%})",
        )
        if revived:
            tell(console, _revived_text(trials, revived, budget))
        if again:
            tell(console, repeats_text(again))
        console.print()
        console.print(best_trials_table(study, score=setup.own_score))
        console.print()
    shares = importance(trials)
    if shares:
        text = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
        tell(console, f"importance among complete trials: {text}")
    # scipy takes half a second to load: only at the end
    from search.results.answer import passed_over_text, study_answer, worth_text

    answer = study_answer(study)
    if answer is not None:
        trial = answer.trial
        full = trial.user_attrs.get(F_SCORE_FULL)
        tell(
            console,
            f"answer: trial {trial.number}, {setup.score_name} {worth_text(answer)}"
            + (" (per image on the training grid)" if setup.program is None else "")
            + ("" if full is None else f", f_score_full {full:.4f} (at the masks' own size)")
            + f": {params_text(with_meaning(setup, trial.params))}",
        )
        if passed := passed_over_text(answer, trials):
            tell(console, passed)
    if setup.preset == "demo":
        tell(console, DEMO_WARNING)
    console.print()
    for what, line in commands(setup, storage=storage, runs=runs).items():
        tell(console, f"{what + ':':<9}{line}")


def importance(trials: Sequence[FrozenTrial]) -> dict[str, float] | None:
    """Each parameter's share of the variance, see `importance_shares`; None with few trials.

    trials: rows of a study, merged here.
    """
    # scipy's statistics take half a second to load: only at the end
    from search.results.statistics.importance import importance_shares

    complete = [trial for trial in lineages.merged(trials) if trial.state == TrialState.COMPLETE]
    return importance_shares(complete)


def _revived_text(
    trials: Sequence[FrozenTrial], revived: Sequence[FrozenTrial], budget: int
) -> str:
    """How many pruned trials went on, what it cost, and whether it was worth it."""
    spent = sum(len(trial.intermediate_values) for trial in revived)
    firsts = {lineages.rows_of(trials, trial)[0].number for trial in revived}
    best = lineages.best_of(trials)
    won = best is not None and best.number in firsts
    outcome = f"{'one' if won else 'none'} of these is the best"
    return (
        f"revived {len(firsts)} of them ({', '.join(map(str, sorted(firsts)))}) for"
        f" {counted(spent, 'epoch')} ({spent / budget:.0%}); {outcome}"
    )


def disk_use(folder: Path) -> int:
    """Bytes of all files below a folder."""
    used = 0
    for path in folder.rglob("*"):
        # other machines may be at work in it
        with contextlib.suppress(FileNotFoundError):
            used += path.stat().st_size if path.is_file() else 0
    return used
