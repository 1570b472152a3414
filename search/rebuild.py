"""Make studies again whose store was lost, from what their trials left in the runs folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.names import JUDGED, REBUILT, RUNS, SETUP, STORAGE
from trainer.cli import Parser, guarded
from trainer.streams import command_line

if TYPE_CHECKING:
    import optuna

    from search.records import Found
    from storage import LeasedStorage

EXAMPLES = """\
examples:
  python -m search.rebuild                                           every study in runs
  python -m search.rebuild --storage sqlite:///runs/new.db --study faces

Finished trials come back as they were; those that were running or had been interrupted wait under
their number and go on from their checkpoint. The same search.run command goes on. An interrupted
rebuild is simply repeated.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.rebuild", description=__doc__, epilog=EXAMPLES)
    it.add_argument("--runs", default=RUNS, metavar="DIR", help="folder of the trials (runs)")
    it.add_argument(
        "--storage", default=STORAGE, metavar="URL", help=f"store to make them in ({STORAGE})"
    )
    it.add_argument("--study", metavar="NAME", help="(default: every study in the folder)")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    # after the arguments: --help need not wait for Optuna
    from storage import StorageError

    return guarded(lambda: _main(args), errors=(StorageError,))


def _main(args: argparse.Namespace) -> int:
    import optuna

    from search.records import existing, found_in
    from search.study import StudyError
    from storage import open_storage
    from trainer.errors import UserError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    runs = existing(args.runs)
    # all is read before the store is touched
    found, amiss = found_in(runs, args.study)
    for line in amiss:
        print(f"note: {line}", file=sys.stderr)
    if not found:
        whose = "a search" if args.study is None else f"study {args.study}"
        raise UserError(
            f"--runs {runs}: holds no trial of {whose} that can come back; name the folder that"
            " search.run wrote to"
        )
    storage = open_storage(args.storage)
    made, refused = 0, []
    for one in found:
        try:
            study = rebuilt(storage, one)
        except StudyError as error:
            # an earlier rebuild may have been interrupted between two studies
            refused.append(str(error))
            continue
        made += 1
        _tell(study, one, args)
    if not made:
        raise StudyError("; ".join(refused))
    for line in refused:
        print(f"note: {line}", file=sys.stderr)
    return 0


def rebuilt(storage: LeasedStorage, found: Found) -> optuna.Study:
    """Make one study in the store. Raises StudyError where it has trials there already."""
    import optuna

    from search.study import StudyError, open_study, set_total

    name = found.setup.name
    _make_room(storage, name)
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    study.set_user_attr(REBUILT, found.setup.uid)
    for number, row in sorted(found.rows.items()):
        study.add_trial(row)
        if len(study.get_trials(deepcopy=False)) != number + 1:
            raise StudyError("the store was away and holds a trial twice: repeat this command")
    _pass_over(storage, study._study_id, found.token)
    if found.total is not None:
        set_total(study, found.total)
    if found.judged is not None:
        study.set_user_attr(JUDGED, found.judged)
    # only now can anybody work on it
    study.set_user_attr(SETUP, found.setup.to_json())
    return open_study(storage, found.setup)


def _make_room(storage: LeasedStorage, name: str) -> None:
    """Delete what an interrupted rebuild, or a run without trials, has left under this name."""
    import optuna

    from search.study import StudyError, refuse_foreign

    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return
    attrs = storage.get_study_user_attrs(study_id)
    half_made = REBUILT in attrs and SETUP not in attrs
    if not half_made and SETUP not in attrs:
        # somebody's own: only one that is as good as new makes room
        refuse_foreign(
            optuna.load_study(study_name=name, storage=storage),
            "name another --storage, or delete that study first",
        )
    if not half_made and (storage.get_all_trials(study_id) or storage.live_claims(study_id)):
        raise StudyError(
            f'the store has a study "{name}" with trials already, and two are never mixed: name'
            " another --storage, or delete that study first"
        )
    storage.delete_study(study_id)


def _pass_over(storage: LeasedStorage, study_id: int, last: int) -> None:
    """Use up the tokens to `last`: claims write where no earlier one did, and later ones win."""
    token = None
    while token is None or token < last:
        token = storage.take_place(study_id, None, "rebuild")
        assert token is not None, "a place without a budget is always free"
        storage.release(token)


def _tell(study: optuna.Study, found: Found, args: argparse.Namespace) -> None:
    """What came back, and the way on."""
    from search import lineage
    from search.progress import counted
    from search.records import LOST
    from storage import redact

    for line in found.amiss:
        print(f"note: {line}", file=sys.stderr)
    trials = study.get_trials(deepcopy=False)
    lost = [trial for trial in trials if LOST in trial.user_attrs]
    states = [trial.state.name.lower() for trial in trials if LOST not in trial.user_attrs]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states))]
    best = lineage.best_of(trials)
    print(
        f"study {study.study_name}: {counted(len(states), 'trial')} came back"
        f" ({', '.join(parts) or 'none'})"
        + ("" if best is None else f"; best: trial {best.number}, f_score {best.value:.4f}")
    )
    if lost:
        numbers = ", ".join(str(trial.number) for trial in lost[:10])
        print(
            f"lost: {counted(len(lost), 'trial')} ({numbers}{', ...' if len(lost) > 10 else ''}),"
            " uncounted: those had not begun, or were copies, which --from takes again"
        )
    words = [sys.executable, "-m", "search.worker", "--storage", redact(args.storage)]
    words += ["--study", study.study_name, "--runs", args.runs]
    done, total = len(lineage.finished(trials)), found.total
    print(f"{done} of {total or '?'} finished; to go on: the same search.run command as before, or")
    print(f"  {command_line(words)}")


if __name__ == "__main__":
    sys.exit(main())
