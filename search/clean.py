"""Remove checkpoints and artifacts that no living trial needs; without --yes only show them."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search.names import RUNS, SETUP, STORAGE
from trainer.cli import Parser, guarded

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from search.revive import Revivals
    from search.study import Setup
    from storage import LeasedStorage

EXAMPLES = """\
examples:
  python -m search.clean                  what could go
  python -m search.clean --yes            remove it
  python -m search.clean --yes --parked   a finished study: its pruned trials are not revived

What stays: the checkpoint that an unfinished trial goes on from, those of pruned trials (unless
diverged, stopped or --parked, once the study has its total and none is to go on), best.pt of the 5
best, and every config.yaml, history.json and contact_sheet.png: search.rebuild needs them.
"""

KEPT_BEST = 5
# a writer that lives needs seconds
LEFT_OVER_S = 3600.0
CHECKPOINTS = ("last.pt", "best.pt")
# trainer.files.atomic_path beside the files of a trial
_TEMPORARY = re.compile(
    r"\.(last|best|history|config|contact_sheet)-[a-z0-9_]{8}\.(pt|json|yaml|png)"
)
_ARTIFACT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
UNNAMED = "artifacts that no trial names"
# stands in the table where files belong to no study
_NO_STUDY = "-"


@dataclass(frozen=True)
class Useless:
    """A file that nobody needs. what: its kind, in the words of the table."""

    path: Path
    bytes: int
    what: str


@dataclass(frozen=True)
class Standing:
    """A study as the store has it at one moment.

    claims: number -> token of the live claim. living: numbers of unfinished trials and of those
    that they continue. reached: the study has its total and no parked trial is to go on. heirs:
    number of a parked trial -> of the row that has gone on from it. best: numbers whose best.pt
    stays.
    """

    setup: Setup
    rows: Mapping[int, FrozenTrial]
    claims: Mapping[int, int]
    living: frozenset[int]
    reached: bool
    heirs: Mapping[int, int]
    best: frozenset[int]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="python -m search.clean", description=__doc__, epilog=EXAMPLES)
    it.add_argument("--runs", default=RUNS, metavar="DIR", help="folder of the trials (runs)")
    it.add_argument("--storage", default=STORAGE, metavar="URL", help=f"({STORAGE})")
    it.add_argument(
        "--study", metavar="NAME", help="(default: every study of the store, and the artifacts)"
    )
    it.add_argument(
        "--parked",
        action="store_true",
        help="also the checkpoints of pruned trials, where the study has reached its total and"
        " revives none: they can then no longer be",
    )
    it.add_argument("--yes", action="store_true", help="remove it; without: only show it")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    # after the arguments: --help need not wait for Optuna
    from storage import StorageError

    return guarded(lambda: _main(args), errors=(StorageError,), printed=not args.yes)


def _main(args: argparse.Namespace) -> int:
    import optuna

    from search.records import existing
    from search.study import load_study
    from storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    runs = existing(args.runs)
    storage = open_storage(args.storage, create=False, read_only=not args.yes)
    if args.study is None:
        # a study of another program has no folder here
        names = [s.study_name for s in storage.get_all_studies() if SETUP in s.user_attrs]
    else:
        names = [args.study]
    studies = [load_study(storage, name) for name in names]
    removed: dict[tuple[str, str], list[int]] = defaultdict(list)
    for study in studies:
        for useless in _of_study(storage, study, runs, parked=args.parked, remove=args.yes):
            removed[study.study_name, useless.what].append(useless.bytes)
    if args.study is None and not _tell_strangers(runs, studies):
        for useless in _artifacts(storage, runs, remove=args.yes):
            removed[_NO_STUDY, useless.what].append(useless.bytes)
    _show(removed, removing=args.yes)
    return 0


def _show(removed: Mapping[tuple[str, str], Sequence[int]], *, removing: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    if not removed:
        print("nothing to remove")
        return
    # the name of a study may hold brackets
    console = Console(highlight=False, markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("study", "removed" if removing else "would remove"):
        table.add_column(heading, overflow="fold")
    for heading in ("files", "MB"):
        table.add_column(heading, justify="right")
    every: list[int] = []
    for (study, what), sizes in removed.items():
        table.add_row(study, what, str(len(sizes)), f"{sum(sizes) / 1e6:.1f}")
        every += sizes
    table.add_row("total", "", str(len(every)), f"{sum(every) / 1e6:.1f}")
    console.print(table)
    if (_NO_STUDY, UNNAMED) in removed:
        print(
            "note: another store that shares this folder may name those artifacts", file=sys.stderr
        )
    print(f"{sum(every) / 1e6:.1f} MB freed" if removing else "add --yes to remove it")


def _tell_strangers(runs: Path, studies: Sequence[optuna.Study]) -> bool:
    """Name the folders of studies that the store does not know; whether there are any."""
    from search.records import token_folders
    from search.study import trial_folder

    known = {trial_folder(runs, study.study_name, 0).parent for study in studies}
    strange = {folder.parents[1] for folder in token_folders(runs)} - known
    if strange:
        names = ", ".join(sorted(folder.name for folder in strange))
        print(
            f"note: left alone, with all artifacts, of no study of this store (search.rebuild may"
            f" need it): {names}",
            file=sys.stderr,
        )
    return bool(strange)


# ------------------------------------------------------------------------------- one study


def _of_study(
    storage: LeasedStorage, study: optuna.Study, runs: Path, *, parked: bool, remove: bool
) -> Iterator[Useless]:
    """What nobody needs of a study; with remove each is gone when it is yielded."""
    from search.records import token_folders_of
    from search.revive import Revivals
    from search.study import trial_folder

    # what is gone is no news here
    revivals = Revivals(study, runs, lambda line: None)
    for number in sorted(standing(storage, study, revivals).rows):
        tokens = token_folders_of(trial_folder(runs, study.study_name, number))
        if not any(_removable(path) for folder in tokens for path in _files(folder)):
            continue
        # its state may have changed since the last trial was looked at
        now = standing(storage, study, revivals)
        for useless in useless_of(now, number, tokens, parked=parked):
            if not remove or _unlinked(useless.path):
                yield useless


def standing(storage: LeasedStorage, study: optuna.Study, revivals: Revivals) -> Standing:
    """Read where a study stands. Raises StudyError."""
    from search import lineage, revive
    from search.study import load_setup, total_of

    rows = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    # after the rows: whoever claims a trial later finds it as it is now
    claims = {
        c.number: c.token for c in storage.live_claims(study._study_id) if c.number is not None
    }
    living: set[int] = set()
    for trial in rows.values():
        link = None if trial.state.is_finished() else trial.number
        while link in rows and link not in living:
            living.add(link)
            link = rows[link].user_attrs.get(lineage.CONTINUES)
    total = total_of(study)
    # copies have no files here
    complete = [
        trial
        for trial in rows.values()
        if trial.state.name == "COMPLETE" and lineage.COPIED_FROM not in trial.user_attrs
    ]
    complete.sort(key=lambda trial: (-(trial.value or 0.0), trial.number))
    setup, trials = load_setup(study), list(rows.values())
    return Standing(
        setup,
        rows,
        claims,
        frozenset(living),
        total is not None
        and len(lineage.finished(trials)) >= total
        and not revivals.left(trials, setup, total),
        {row.user_attrs[lineage.CONTINUES]: row.number for row in revive.revivals(trials)},
        frozenset(trial.number for trial in complete[:KEPT_BEST]),
    )


def useless_of(
    standing: Standing, number: int, tokens: Sequence[Path], *, parked: bool
) -> Iterator[Useless]:
    """What nobody needs of one trial. tokens: the folders of its claims, oldest first."""
    from search import lineage

    row, claim = standing.rows[number], standing.claims.get(number)
    state = row.state.name
    tokens = [folder for folder in tokens if _is_of(folder, standing.setup.uid)]
    for folder in tokens:
        yield from _left_over(_files(folder), _TEMPORARY, "temporary files of dead processes")
    if state == "RUNNING" and claim is None:
        # between two owners
        return
    kept: list[Path] = []
    what = f"checkpoints of {'failed' if state == 'FAIL' else state.lower()} trials"
    hopeless = lineage.diverged(row) or bool(row.user_attrs.get("stopped"))
    gone = standing.reached and (parked or hopeless)
    heir = standing.heirs.get(number)
    if heir is not None and _is_heir(standing.rows[heir], tokens):
        what = "superseded checkpoints"
    elif number in standing.living or (state == "PRUNED" and not gone):
        kept, what = _newest(standing.setup, row, tokens), "superseded checkpoints"
    elif state == "COMPLETE" and number in standing.best:
        kept = [folder / "best.pt" for folder in tokens if (folder / "best.pt").is_file()][-1:]
    for folder in tokens:
        # an owner writes in its own folder; the older ones it reads, and needs the newest of them
        if claim is not None and int(folder.name) >= claim:
            continue
        for path in _files(folder):
            if path.name in CHECKPOINTS and path not in kept:
                yield Useless(path, path.stat().st_size, what)


def _is_heir(row: FrozenTrial, tokens: Sequence[Path]) -> bool:
    """Whether a revival has no more use for the checkpoints of the row that it goes on from."""
    from search.records import token_folders_of

    if row.state.name == "COMPLETE":
        return True
    own = token_folders_of(tokens[0].parents[1] / str(row.number)) if tokens else []
    return any(all((folder / name).is_file() for name in CHECKPOINTS) for folder in own)


def _newest(setup: Setup, row: FrozenTrial, tokens: Sequence[Path]) -> list[Path]:
    """The files of the checkpoint that the trial's next owner goes on from."""
    from search.objective import trial_config
    from search.resume import newest_checkpoint
    from trainer.errors import ConfigError

    whole = [folder for folder in tokens if all((folder / name).is_file() for name in CHECKPOINTS)]
    if len(whole) > 1:
        try:
            config = trial_config(row, setup)
            start = newest_checkpoint([whole[0].parent], config, setup.uid)
        except (KeyError, ConfigError):
            start = None
        # one that cannot be told from the others costs none of them
        whole = whole if start is None else [start.path.parent]
    return [folder / name for folder in whole for name in CHECKPOINTS]


# ------------------------------------------------------------------------------- files


def _artifacts(storage: LeasedStorage, runs: Path, *, remove: bool) -> Iterator[Useless]:
    """Artifacts that no trial and no study of the store names."""
    from search.records import ARTIFACTS

    folder = runs / ARTIFACTS
    if folder.is_symlink() or not folder.is_dir():
        return
    # files first: an artifact is named before it is written
    present = _files(folder)
    named = set()
    for study in storage.get_all_studies():
        attrs = [study.system_attrs]
        attrs += [t.system_attrs for t in storage.get_all_trials(study._study_id, deepcopy=False)]
        for key in (key for some in attrs for key in some):
            if found := _ARTIFACT.search(key):
                named.add(found.group())
    unnamed = [path for path in present if path.name not in named]
    for useless in _left_over(unnamed, _ARTIFACT, UNNAMED):
        if not remove or _unlinked(useless.path):
            yield useless


def _left_over(paths: Iterable[Path], names: re.Pattern[str], what: str) -> Iterator[Useless]:
    for path in paths:
        if not names.fullmatch(path.name):
            continue
        try:
            state = path.stat()
        except FileNotFoundError:
            # its writer lives, and is done
            continue
        if time.time() - state.st_mtime > LEFT_OVER_S:
            yield Useless(path, state.st_size, what)


def _removable(path: Path) -> bool:
    return path.name in CHECKPOINTS or _TEMPORARY.fullmatch(path.name) is not None


def _files(folder: Path) -> list[Path]:
    """The plain files of a folder; a link is none."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def _is_of(folder: Path, uid: str) -> bool:
    """Whether the study with this uid wrote a token's folder."""
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    # a whole reading takes a hundred times as long
    return re.search(rf"^  study_uid: '?{uid}'?$", text, re.MULTILINE) is not None


def _unlinked(path: Path) -> bool:
    """Remove a file; False where it is gone already. Raises UserError."""
    from trainer.errors import UserError

    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; mend that and run the same command: it removes the rest"
        ) from None
    return True


if __name__ == "__main__":
    sys.exit(main())
