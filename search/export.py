"""A trial as YAML for the trainer, or in another form: `python -m search.export`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.commands import add_runs, add_storage, add_study, run_command, study_name
from search.study.attributes import REPEATS, is_imported
from search.study.names import RUNS, STORAGE, repeats_name, search_name
from trainer.cli import Parser
from trainer.errors import UserError
from trainer.streams import command_line, write_product

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from search.strategy.answers import Answer
    from storage import LeasedStorage

FORMATS = ("yaml", "json", "csv", "python-dict", "cli", "card")
EXAMPLES = """\
examples:
  python -m search.export --out best.yaml
  python -m trainer.train --config best.yaml                 the same score again
  python -m trainer.train --config best.yaml --preset full   its values at full size
  python main.py --config best.yaml                          the same, of your own program
  python -m search.export --format csv --out trials.csv      all trials, for a spreadsheet
  python -m search.export --confirmed --format card --out CARD.md
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.export", description=__doc__, epilog=EXAMPLES)
    add_study(it)
    add_storage(it)
    it.add_argument("--trial", type=int, metavar="N", help="trial number (default: the answer)")
    it.add_argument(
        "--confirmed",
        action="store_true",
        help="the winner of search.confirm, from the study NAME-confirm",
    )
    it.add_argument(
        "--format",
        choices=FORMATS,
        default="yaml",
        help="yaml (default; of your own program: the format of its config), json or python-dict:"
        " the whole config; cli: the command that trains it; card: a model card in Markdown; csv:"
        " the table of all trials",
    )
    add_runs(it, f"the trials' files, for the card ({RUNS})")
    it.add_argument("--out", type=Path, metavar="FILE", help="(default: standard output)")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(words)
    return run_command(lambda: _main(args, words), printed=args.out is None)


def _main(args: argparse.Namespace, words: Sequence[str]) -> int:
    from search.results.export_formats import exported
    from search.study.lookup import named_study
    from storage import open_storage, redact_words
    from trainer.files import atomic_write_text

    _check(args)
    notes: list[str] = []
    storage = open_storage(args.storage, read_only=True)
    name = study_name(storage, args.study)
    if args.format == "csv":
        text, what = _all_trials(named_study(storage, name))
    else:
        study, chosen = _study_and_trial(args, storage, name)
        command = command_line(["python", "-m", "search.export", *redact_words(words)])
        if args.format == "card":
            _refuse_card(study)
            text = _card(args, storage, study, chosen.trial, command)
        else:
            text = exported(study, chosen, args.format, command=command)
        what = f"trial {chosen.trial.number} of {study.study_name} is"
        notes = _notes(study, chosen)
    if args.out is None:
        write_product(text)
    else:
        atomic_write_text(args.out, text)
        print(f"{what} in {args.out}", file=sys.stderr)
    for note in notes:
        print(note, file=sys.stderr)
    return 0


def _notes(study: optuna.Study, chosen: Answer) -> list[str]:
    """What the answer is worth, and which trial reached more."""
    from search.results.answer import passed_over_text, worth_text

    if chosen.expected is None:
        return []
    rows = study.get_trials(deepcopy=False)
    passed = passed_over_text(chosen, rows)
    return [worth_text(chosen), *([] if passed is None else [passed])]


def _check(args: argparse.Namespace) -> None:
    """Raises UserError for flags that contradict each other."""
    if args.trial is not None and args.confirmed:
        raise UserError(
            f"--trial {args.trial} and --confirmed each choose a trial; leave one of them out"
        )
    chosen = "--confirmed" if args.confirmed else f"--trial {args.trial}"
    if args.format == "csv" and (args.confirmed or args.trial is not None):
        raise UserError(f"--format csv holds all trials; leave {chosen} out, or choose yaml")


def _all_trials(study: optuna.Study) -> tuple[str, str]:
    """The table, and what it is in words."""
    from search.results.export_formats import as_csv
    from search.results.reading import print_troubles, results_of

    results = results_of(study)
    print_troubles([results])
    return as_csv(results), f"{len(results.outcomes)} trials of {results.name} are"


def _refuse_card(study: optuna.Study) -> None:
    """Raise StudyError where another program trains: a card tells of faces and our networks."""
    from search.study.lookup import load_setup
    from search.study.setup import StudyError

    if load_setup(study).program is not None:
        raise StudyError(
            f"--format card: study {study.study_name} is trained by a program of your own, of whose"
            " data and network nothing is known here; choose yaml, or write a report with"
            " python -m search.report"
        )


def _card(
    args: argparse.Namespace,
    storage: LeasedStorage,
    study: optuna.Study,
    trial: FrozenTrial,
    command: str,
) -> str:
    from search.reporting.markdown import markdown
    from search.reporting.model_card import card
    from search.results.reading import results_of
    from storage import redact

    runs = Path(args.runs)
    results = results_of(study, runs)
    chosen = next((one for one in results.outcomes if one.number == trial.number), None)
    if chosen is None:
        of = trial.user_attrs[REPEATS]
        raise UserError(
            f"--trial {trial.number}: repeats trial {of}, whose card tells of its repeats too: give"
            f" --trial {of}"
        )
    confirm = ["python", "-m", "search.confirm", "--study", search_name(study.study_name)]
    confirm += ["--storage", redact(args.storage)] if args.storage != STORAGE else []
    confirm += ["--runs", args.runs] if args.runs != RUNS else []
    line = command_line(confirm)
    return markdown(card(storage, results, chosen, runs, command=command, confirm=line))


def _study_and_trial(
    args: argparse.Namespace, storage: LeasedStorage, name: str
) -> tuple[optuna.Study, Answer]:
    """Raises StudyError for a study that lacks such a trial, or whose configs are not known."""
    from search.results.export_formats import chosen_trial
    from search.strategy.answers import Answer
    from search.study.lookup import load_setup, named_study
    from search.study.setup import StudyError

    if args.confirmed:
        # only now: it brings torch along
        from search.confirmation.scores import confirmed_trial

        trial = confirmed_trial(storage, name)
        return named_study(storage, repeats_name(name)), Answer(trial)
    study = named_study(storage, name)
    if is_imported(study.user_attrs):
        raise StudyError(
            f'study "{name}" was imported, so its configs are not known as a whole;'
            " --format csv gives its table"
        )
    load_setup(study)
    return study, chosen_trial(study, args.trial)


if __name__ == "__main__":
    sys.exit(main())
