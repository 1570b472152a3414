"""A trial as YAML for the trainer, or in another form: `python -m search.export`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.study.attributes import RUNTIME, SEED
from search.study.names import RUNS, STORAGE, is_imported, repeats_name, search_name
from trainer.cli import Parser, guarded
from trainer.errors import UserError
from trainer.streams import command_line, write_product

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from storage import LeasedStorage
    from trainer.config import Config

FORMATS = ("yaml", "json", "csv", "python-dict", "cli", "card")
EXAMPLES = """\
examples:
  python -m search.export --out best.yaml
  python -m trainer.train --config best.yaml                 the same score again
  python -m trainer.train --config best.yaml --preset full   its values at full size
  python -m search.export --format csv --out trials.csv      all trials, for a spreadsheet
  python -m search.export --confirmed --format card --out CARD.md
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.export", description=__doc__, epilog=EXAMPLES)
    it.add_argument("--study", metavar="NAME", help="(default: the one with the latest activity)")
    it.add_argument("--storage", default=STORAGE, metavar="URL", help=f"({STORAGE})")
    it.add_argument(
        "--trial", type=int, metavar="N", help="trial number (default: the best complete one)"
    )
    it.add_argument(
        "--confirmed",
        action="store_true",
        help="the winner of search.confirm, from the study NAME-confirm",
    )
    it.add_argument(
        "--format",
        choices=FORMATS,
        default="yaml",
        help="yaml (default), json or python-dict: the whole config; cli: the command that trains"
        " it; card: a model card in Markdown; csv: the table of all trials",
    )
    it.add_argument(
        "--runs", default=RUNS, metavar="DIR", help=f"the trials' files, for the card ({RUNS})"
    )
    it.add_argument("--out", type=Path, metavar="FILE", help="(default: standard output)")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(words)
    # after the arguments: --help need not wait for Optuna and SQLAlchemy
    from storage import StorageError

    return guarded(lambda: _main(args, words), errors=(StorageError,), printed=args.out is None)


def _main(args: argparse.Namespace, words: Sequence[str]) -> int:
    from search.study.lookup import chosen_study, named_study
    from storage import open_storage, redact_words
    from trainer.files import atomic_write_text

    _check(args)
    storage = open_storage(args.storage, read_only=True)
    name = chosen_study(storage, args.study, partial(print, file=sys.stderr))
    if args.format == "csv":
        text, what = _all_trials(named_study(storage, name))
    else:
        study, trial = _study_and_trial(args, storage, name)
        command = command_line(["python", "-m", "search.export", *redact_words(words)])
        text = _text(args, storage, study, trial, command)
        what = f"trial {trial.number} of {study.study_name} is"
    if args.out is None:
        write_product(text)
    else:
        atomic_write_text(args.out, text)
        print(f"{what} in {args.out}", file=sys.stderr)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises UserError for flags that contradict each other."""
    if args.trial is not None and args.confirmed:
        raise UserError(
            f"--trial {args.trial} and --confirmed each choose a trial; leave one of them out"
        )
    chosen = "--confirmed" if args.confirmed else f"--trial {args.trial}"
    if args.format == "csv" and (args.confirmed or args.trial is not None):
        raise UserError(f"--format csv holds all trials; leave {chosen} out, or choose yaml")


# ----------------------------------------------------------------------------------------- texts


def exported(study: optuna.Study, trial: FrozenTrial, *, command: str) -> str:
    """The YAML that repeats a trial: its seed, its runtime, early stopping off, and its origin.

    Raises StudyError or ConfigError if the study or the trial does not hold what is needed.
    """
    from trainer.config import to_yaml

    return to_yaml(*_config_and_record(study, trial, command))


def _config_and_record(
    study: optuna.Study, trial: FrozenTrial, command: str
) -> tuple[Config, dict[str, Any]]:
    from search.study.lookup import load_setup
    from search.study.run_records import search_record
    from search.study.setup import config_for

    setup = load_setup(study)
    config = config_for(
        setup,
        trial.params,
        seed=trial.user_attrs[SEED],
        runtime=trial.user_attrs.get(RUNTIME),
    )
    return config, search_record(setup, trial) | {"epochs": setup.epochs, "command": command}


def _text(
    args: argparse.Namespace,
    storage: LeasedStorage,
    study: optuna.Study,
    trial: FrozenTrial,
    command: str,
) -> str:
    from search.results import export_formats
    from trainer.config import to_dict

    if args.format == "yaml":
        return exported(study, trial, command=command)
    config, record = _config_and_record(study, trial, command)
    if args.format == "cli":
        return command_line(export_formats.train_words(config)) + "\n"
    if args.format == "card":
        return _card(args, storage, study, trial, config, command)
    document = to_dict(config) | {"search": record}
    return (
        export_formats.as_json(document)
        if args.format == "json"
        else export_formats.as_python(document)
    )


def _all_trials(study: optuna.Study) -> tuple[str, str]:
    """The table, and what it is in words."""
    from search.results.export_formats import as_csv
    from search.results.reading import print_troubles, results_of

    results = results_of(study)
    print_troubles([results])
    return as_csv(results), f"{len(results.outcomes)} trials of {results.name} are"


def _card(
    args: argparse.Namespace,
    storage: LeasedStorage,
    study: optuna.Study,
    trial: FrozenTrial,
    config: Config,
    command: str,
) -> str:
    from search.reporting.markdown import markdown
    from search.reporting.model_card import card, origin_of
    from search.results.reading import results_of
    from storage import redact

    results = results_of(study, Path(args.runs))
    chosen = next(one for one in results.outcomes if one.number == trial.number)
    confirm = ["python", "-m", "search.confirm", "--study", search_name(study.study_name)]
    confirm += ["--storage", redact(args.storage)] if args.storage != STORAGE else []
    confirm += ["--runs", args.runs] if args.runs != RUNS else []
    origin = origin_of(storage, results, chosen, Path(args.runs))
    return markdown(
        card(results, chosen, config, origin, command=command, confirm=command_line(confirm))
    )


# ---------------------------------------------------------------------------------- which trial


def _study_and_trial(
    args: argparse.Namespace, storage: LeasedStorage, name: str
) -> tuple[optuna.Study, FrozenTrial]:
    """Raises StudyError for a study that lacks such a trial, or whose configs are not known."""
    from search.study.lookup import load_setup, named_study
    from search.study.setup import StudyError

    if args.confirmed:
        # only now: it brings torch along
        from search.confirmation.scores import confirmed_trial

        trial = confirmed_trial(storage, name)
        return named_study(storage, repeats_name(name)), trial
    study = named_study(storage, name)
    if is_imported(study.user_attrs):
        raise StudyError(
            f'study "{name}" was imported, so its configs are not known as a whole;'
            " --format csv gives its table"
        )
    load_setup(study)
    return study, _chosen(study, args.trial)


def _chosen(study: optuna.Study, number: int | None) -> FrozenTrial:
    """The trial asked for, or the answer of the study. Raises StudyError."""
    from search.study import lineages
    from search.study.setup import StudyError

    trials = study.get_trials(deepcopy=False)
    if number is None:
        trial = lineages.best_of(trials)
        if trial is None:
            raise StudyError(
                f"study {study.study_name}: no trial is complete yet; wait for one, or name a"
                " pruned one with --trial N"
            )
    else:
        by_number = {trial.number: trial for trial in trials}
        if number not in by_number:
            raise StudyError(
                f"study {study.study_name}: --trial {number} does not exist; there are"
                f" {lineages.numbers_text(trials)}"
            )
        first = lineages.rows_of(trials, by_number[number])[0].number
        trial = next(one for one in lineages.merged(trials) if one.number == first)
    if SEED not in trial.user_attrs:
        # also one that was told COMPLETE in the dashboard
        raise StudyError(
            f"study {study.study_name}: trial {trial.number} is {trial.state.name} and has never"
            " been trained; choose another with --trial N"
        )
    return trial


if __name__ == "__main__":
    sys.exit(main())
