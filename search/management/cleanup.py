"""Which checkpoints and artifacts no living trial needs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from search.strategy.forecast.priors import KeptForecast
from search.strategy.revival import Revivals
from search.study import lineages
from search.study.attributes import CONTINUES, COPIED_FROM, REPEATS, STOPPED
from search.study.lookup import load_setup
from search.study.run_folders import token_folders, token_folders_of, trial_folder
from search.study.run_records import ARTIFACTS
from search.study.setup import Setup
from search.study.shared_state import total_of
from search.trainers.configs import trial_values
from search.trainers.selection import trainer_of
from storage import LeasedStorage
from storage.optuna_internals import id_of_study
from trainer.errors import ConfigError, UserError

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
NO_STUDY = "-"


@dataclass(frozen=True)
class Useless:
    """A file that nobody needs. what: its kind, in the words of the table."""

    path: Path
    bytes: int
    what: str


@dataclass(frozen=True)
class KeptFiles:
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


def useless_of_study(
    storage: LeasedStorage, study: optuna.Study, runs: Path, *, parked: bool, remove: bool
) -> Iterator[Useless]:
    """What nobody needs of a study; with remove each is gone when it is yielded."""
    # what is gone is no news here
    revivals = Revivals(KeptForecast(study), runs, lambda line: None)
    for number in sorted(kept_files(storage, study, revivals).rows):
        tokens = token_folders_of(trial_folder(runs, study.study_name, number))
        names = [path.name for folder in tokens for path in _files(folder)]
        if not any(name in CHECKPOINTS or _TEMPORARY.fullmatch(name) for name in names):
            continue
        # its state may have changed since the last trial was looked at
        now = kept_files(storage, study, revivals)
        for useless in useless_of(now, number, tokens, parked=parked):
            if not remove or _unlinked(useless.path):
                yield useless


def kept_files(storage: LeasedStorage, study: optuna.Study, revivals: Revivals) -> KeptFiles:
    """Read where a study stands. Raises StudyError."""
    rows = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    # after the rows: whoever claims a trial later finds it as it is now
    claims = {
        c.number: c.token for c in storage.live_claims(id_of_study(study)) if c.number is not None
    }
    living: set[int] = set()
    for trial in rows.values():
        link = None if trial.state.is_finished() else trial.number
        while link in rows and link not in living:
            living.add(link)
            link = rows[link].user_attrs.get(CONTINUES)
    total = total_of(study)
    # copies have no files here, and of a repeat the score is what counts
    own = (
        trial
        for trial in rows.values()
        if COPIED_FROM not in trial.user_attrs and REPEATS not in trial.user_attrs
    )
    setup, trials = load_setup(study), list(rows.values())
    return KeptFiles(
        setup,
        rows,
        claims,
        frozenset(living),
        total is not None
        and len(lineages.finished(trials)) >= total
        and not revivals.left(trials, setup, total),
        {row.user_attrs[CONTINUES]: row.number for row in lineages.revivals(trials)},
        frozenset(trial.number for trial in lineages.best_first(own)[:KEPT_BEST]),
    )


def useless_of(
    kept_files: KeptFiles, number: int, tokens: Sequence[Path], *, parked: bool
) -> Iterator[Useless]:
    """What nobody needs of one trial. tokens: the folders of its claims, oldest first."""
    row, claim = kept_files.rows[number], kept_files.claims.get(number)
    state = row.state.name
    tokens = [folder for folder in tokens if _is_of(folder, kept_files.setup.uid)]
    for folder in tokens:
        yield from _left_over(_files(folder), _TEMPORARY, "temporary files of dead processes")
    if state == "RUNNING" and claim is None:
        # between two owners
        return
    kept: list[Path] = []
    what = f"checkpoints of {'failed' if state == 'FAIL' else state.lower()} trials"
    hopeless = lineages.diverged(row) or bool(row.user_attrs.get(STOPPED))
    gone = kept_files.reached and (parked or hopeless)
    heir = kept_files.heirs.get(number)
    if heir is not None and _is_heir(kept_files.rows[heir], tokens):
        what = "superseded checkpoints"
    elif number in kept_files.living or (state == "PRUNED" and not gone):
        kept, what = _newest(kept_files.setup, row, tokens), "superseded checkpoints"
    elif state == "COMPLETE" and number in kept_files.best:
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
    if row.state.name == "COMPLETE":
        return True
    own = token_folders_of(tokens[0].parents[1] / str(row.number)) if tokens else []
    return any(all((folder / name).is_file() for name in CHECKPOINTS) for folder in own)


def _newest(setup: Setup, row: FrozenTrial, tokens: Sequence[Path]) -> list[Path]:
    """The files of the checkpoint that the trial's next owner goes on from."""
    whole = [folder for folder in tokens if all((folder / name).is_file() for name in CHECKPOINTS)]
    if len(whole) > 1:
        try:
            config = trial_values(row, setup)
            newest = trainer_of(setup).kept(setup, config, [whole[0].parent])
        except (KeyError, ConfigError):
            newest = []
        # one that cannot be known from the others costs none of them
        whole = [path.parent for path in newest[:1]] or whole
    return [folder / name for folder in whole for name in CHECKPOINTS]


def unnamed_artifacts(storage: LeasedStorage, runs: Path, *, remove: bool) -> Iterator[Useless]:
    """Artifacts that no trial and no study of the store names."""
    folder = runs / ARTIFACTS
    if folder.is_symlink() or not folder.is_dir():
        return
    # files first: an artifact is named before it is written
    present = _files(folder)
    named = set()
    for study in storage.get_all_studies():
        attrs = [study.system_attrs]
        attrs += [
            t.system_attrs for t in storage.get_all_trials(id_of_study(study), deepcopy=False)
        ]
        for key in (key for some in attrs for key in some):
            if found := _ARTIFACT.search(key):
                named.add(found.group())
    unnamed = [path for path in present if path.name not in named]
    for useless in _left_over(unnamed, _ARTIFACT, UNNAMED):
        if not remove or _unlinked(useless.path):
            yield useless


def unknown_folders(runs: Path, studies: Sequence[optuna.Study]) -> list[Path]:
    """Folders of trials of studies that are none of these, by name."""
    known = {trial_folder(runs, study.study_name, 0).parent for study in studies}
    return sorted({folder.parents[1] for folder in token_folders(runs)} - known)


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
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; fix that and run the same command: it removes the rest"
        ) from None
    return True
