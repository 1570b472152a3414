from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from search import rebuild
from search.clean import main
from search.execution.worker_loop import work
from search.management import cleanup
from search.management.opening import open_study
from search.results.export_formats import exported
from search.strategy.answers import Answer
from search.strategy.loading import load_study
from search.study.lookup import load_setup
from search.study.setup import CHANGEABLE
from search.study.shared_state import drain, set_total
from search.trainers import faces
from storage import open_storage
from tests.support.studies import context_at, real_study, store
from trainer import train
from trainer.errors import Diverged
from trainer.fit import fit

FIRST, SECOND, PARKED, DIVERGED, FAILED, WAITING = range(6)
HOURS_AGO = time.time() - 3 * 3600


def _prune() -> None:
    raise optuna.TrialPruned("after epoch 1")


def _diverge() -> None:
    raise Diverged("loss is nan at step 9")


def _break() -> None:
    raise RuntimeError("broken")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and the runs of six trials of every kind; the last was interrupted twice."""
    there = tmp_path_factory.mktemp("clean")
    storage = store(there)
    study = real_study(storage, total=5)
    acts: list[Callable[[], None] | None] = [None, None, _prune, _diverge, _break, _break]
    acts += [lambda: drain(study)] * 2

    def scripted(config: Any, data: Any, **options: Any) -> Any:
        act = acts.pop(0)

        def heard(progress: Any) -> None:
            if act is _prune:
                # by what was reported
                options["report"](progress)
            if act is not None:
                act()
            options["report"](progress)

        return fit(config, data, **(options | {"report": heard}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faces, "fit", scripted)
        work(context_at(there, storage))
        work(context_at(there, storage))
    states = [trial.state.name for trial in study.get_trials()]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED", "FAIL", "WAITING"]
    storage.close()
    return there


@pytest.fixture
def folder(lived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; one complete trial counts as the best there is room for."""
    monkeypatch.setattr(cleanup, "KEPT_BEST", 1)
    return copied(lived, tmp_path / "one")


def copied(lived: Path, there: Path) -> Path:
    shutil.copytree(lived / "runs", there / "runs")
    shutil.copy(lived / "search.db", there)
    return there


def cleaned(folder: Path, *flags: str) -> int:
    storage = f"sqlite:///{folder}/search.db"
    return main(["--storage", storage, "--runs", str(folder / "runs"), *flags])


def files(folder: Path) -> set[str]:
    """Every file of the runs, relative to the study."""
    return {
        str(path.relative_to(folder / "runs"))
        for path in (folder / "runs").rglob("*")
        if path.is_file()
    }


def checkpoints(folder: Path, number: int) -> list[str]:
    """The checkpoints of a trial as <claim>/<file>, claims counted from 1."""
    tokens = token_folders(folder, number)
    return sorted(
        f"{claim}/{path.name}"
        for claim, token in enumerate(tokens, 1)
        for path in token.glob("*.pt")
    )


def token_folders(folder: Path, number: int) -> list[Path]:
    there = folder / "runs" / "faces" / str(number)
    return sorted(there.iterdir(), key=lambda path: int(path.name))


def trials(folder: Path) -> list[FrozenTrial]:
    return load_study(store(folder), "faces").get_trials()


def best_first(folder: Path) -> tuple[int, int]:
    """The numbers of the two complete trials, the better one first."""
    one, other = trials(folder)[FIRST], trials(folder)[SECOND]
    assert one.value is not None
    assert other.value is not None
    return (FIRST, SECOND) if one.value >= other.value else (SECOND, FIRST)


def old(path: Path, text: str = "x") -> Path:
    """A file that was last written hours ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (HOURS_AGO, HOURS_AGO))
    return path


def error(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("error: ")
    return line


# ------------------------------------------------------------------------------ what goes and stays


def test_without_yes_it_only_shows_what_would_go(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(folder)
    assert cleaned(folder) == 0
    assert files(folder) == before
    said = capsys.readouterr().out
    assert "would remove" in said
    assert "superseded checkpoints" in said
    assert said.rstrip().endswith("add --yes to remove it")


def test_a_running_study_keeps_what_its_unfinished_and_parked_trials_go_on_from(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(folder)
    best, other = best_first(folder)
    freed = sum(path.stat().st_size for path in (folder / "runs").rglob("*.pt"))
    assert cleaned(folder, "--yes") == 0
    freed -= sum(path.stat().st_size for path in (folder / "runs").rglob("*.pt"))
    assert checkpoints(folder, best) == ["1/best.pt"]
    assert checkpoints(folder, other) == []
    assert checkpoints(folder, PARKED) == ["1/best.pt", "1/last.pt"]
    # the total is not reached: even a diverged one stays
    assert checkpoints(folder, DIVERGED) == ["1/best.pt", "1/last.pt"]
    assert checkpoints(folder, FAILED) == []
    assert checkpoints(folder, WAITING) == ["2/best.pt", "2/last.pt"]
    gone = before - files(folder)
    assert {Path(name).suffix for name in gone} == {".pt"}
    said = capsys.readouterr().out
    assert f"{freed / 1e6:.1f} MB freed" in said
    assert cleaned(folder, "--yes") == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_a_study_that_has_its_total_lets_diverged_trials_go_and_parked_ones_on_demand(
    folder: Path,
) -> None:
    set_total(load_study(store(folder), "faces"), 4)
    assert cleaned(folder, "--yes") == 0
    assert checkpoints(folder, DIVERGED) == []
    assert checkpoints(folder, PARKED) == ["1/best.pt", "1/last.pt"]
    assert cleaned(folder, "--yes", "--parked") == 0
    assert checkpoints(folder, PARKED) == []
    assert checkpoints(folder, WAITING) == ["2/best.pt", "2/last.pt"]


def test_the_parent_of_a_waiting_revival_keeps_its_checkpoint(folder: Path) -> None:
    study = load_study(store(folder), "faces")
    set_total(study, 4)
    study.enqueue_trial({}, user_attrs={"continues": PARKED})
    assert cleaned(folder, "--yes", "--parked") == 0
    assert checkpoints(folder, PARKED) == ["1/best.pt", "1/last.pt"]


def revive(there: Path, number: int, *, revivals: int = 9) -> None:
    """The study has its total, and may revive so many of its parked trials."""
    study = load_study(store(there), "faces")
    setup = replace(load_setup(study), revive=revivals)
    open_study(store(there), setup, explicit=CHANGEABLE)
    set_total(study, number)


def test_parked_checkpoints_stay_while_revivals_are_to_come(folder: Path) -> None:
    revive(folder, 4, revivals=1)
    assert cleaned(folder, "--yes", "--parked") == 0
    assert checkpoints(folder, PARKED) == ["1/best.pt", "1/last.pt"]
    revive(folder, 4, revivals=0)
    assert cleaned(folder, "--yes", "--parked") == 0
    assert checkpoints(folder, PARKED) == []


def test_what_a_revived_trial_went_on_from_goes_once_its_own_is_there(folder: Path) -> None:
    revive(folder, 4, revivals=1)
    work(context_at(folder, store(folder)))
    *_, revived = trials(folder)
    assert (revived.state, revived.user_attrs["continues"]) == (TrialState.COMPLETE, PARKED)
    assert cleaned(folder, "--yes") == 0
    assert checkpoints(folder, PARKED) == []
    kept = max(
        (t for t in trials(folder) if t.state == TrialState.COMPLETE), key=lambda t: t.value or 0
    )
    # of its latest attempt: where this machine stalls, the lease is lost and taken again
    (left,) = checkpoints(folder, kept.number)
    assert left.partition("/")[2] == "best.pt"


def test_a_waiting_trial_goes_on_to_the_digits_that_it_would_have_had(
    lived: Path, folder: Path, tmp_path: Path
) -> None:
    twin = copied(lived, tmp_path / "twin")
    assert cleaned(folder, "--yes") == 0
    ends = []
    for there in (folder, twin):
        work(context_at(there, store(there)))
        ends.append(trials(there)[WAITING])
    assert ends[0].state == TrialState.COMPLETE
    assert ends[0].value == ends[1].value
    assert ends[0].intermediate_values == ends[1].intermediate_values


@pytest.mark.long
def test_export_training_and_rebuild_need_nothing_of_what_went(
    lived: Path, folder: Path, tmp_path: Path
) -> None:
    set_total(load_study(store(folder), "faces"), 4)
    assert cleaned(folder, "--yes", "--parked") == 0
    before = load_study(store(lived), "faces")
    after = load_study(store(folder), "faces")
    texts = [exported(s, Answer(s.best_trial), command="same") for s in (before, after)]
    assert texts[0] == texts[1]
    (tmp_path / "best.yaml").write_text(texts[1])
    flags = ["--config", str(tmp_path / "best.yaml"), "--device", "cpu"]
    assert train.main([*flags, "--out", str(tmp_path / "again")]) == 0
    url = f"sqlite:///{tmp_path}/new.db"
    assert rebuild.main(["--storage", url, "--runs", str(folder / "runs")]) == 0
    made = load_study(open_storage(url), "faces").get_trials()
    for number in (FIRST, SECOND, PARKED, DIVERGED, WAITING):
        was, now = before.get_trials()[number], made[number]
        assert (now.state, now.value, now.params) == (was.state, was.value, was.params)
        assert now.intermediate_values == was.intermediate_values


# ------------------------------------------------------------------------------------ at work


def test_the_folder_of_a_live_claim_is_never_touched(folder: Path) -> None:
    storage = store(folder)
    study = load_study(storage, "faces")
    token = storage.take_slot(study._study_id, 5, "test")
    assert token is not None
    assert storage.pop_waiting(study._study_id, token) is not None
    mine = folder / "runs" / "faces" / str(WAITING) / str(token)
    shutil.copytree(token_folders(folder, WAITING)[0], mine)
    assert cleaned(folder, "--yes") == 0
    # the second claim came furthest: the owner may be reading it
    assert checkpoints(folder, WAITING) == ["2/best.pt", "2/last.pt", "3/best.pt", "3/last.pt"]


def test_a_running_trial_between_two_owners_is_not_touched(folder: Path) -> None:
    storage = store(folder)
    study = load_study(storage, "faces")
    token = storage.take_slot(study._study_id, 5, "test")
    assert token is not None
    storage.pop_waiting(study._study_id, token)
    storage.release(token)
    before = checkpoints(folder, WAITING)
    assert cleaned(folder, "--yes") == 0
    assert len(before) == 4
    assert checkpoints(folder, WAITING) == before


def test_a_trial_that_is_taken_up_during_the_cleaning_is_judged_as_it_is_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(folder)
    study = load_study(storage, "faces")
    unlinked = cleanup._unlinked
    taken: list[Path] = []

    def meanwhile(path: Path) -> bool:
        if not taken:
            token = storage.take_slot(study._study_id, 5, "test")
            assert token is not None
            storage.pop_waiting(study._study_id, token)
            taken.append(folder / "runs" / "faces" / str(WAITING) / str(token))
            shutil.copytree(token_folders(folder, WAITING)[0], taken[0])
        return unlinked(path)

    monkeypatch.setattr(cleanup, "_unlinked", meanwhile)
    assert cleaned(folder, "--yes") == 0
    assert sorted(path.name for path in taken[0].glob("*.pt")) == ["best.pt", "last.pt"]


# ------------------------------------------------------------------------------------ left over


def test_temporary_files_of_the_dead_go_and_younger_or_other_ones_stay(folder: Path) -> None:
    place = token_folders(folder, PARKED)[0]
    dead = old(place / ".last-ab_cd3fg.pt")
    persons = old(place / ".last-notes-of-mine.pt")
    young = place / ".history-abcdefgh.json"
    young.write_text("x")
    assert cleaned(folder, "--yes") == 0
    assert (dead.exists(), persons.exists(), young.exists()) == (False, True, True)


def test_artifacts_that_no_trial_names_go_when_they_are_old(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = folder / "runs" / "artifacts"
    named = list(place.iterdir())
    for path in named:
        os.utime(path, (HOURS_AGO, HOURS_AGO))
    unnamed, persons = old(place / str(uuid.uuid4())), old(place / "notes.txt")
    young = place / str(uuid.uuid4())
    young.write_text("x")
    # they belong to no study
    assert cleaned(folder, "--yes", "--study", "faces") == 0
    assert unnamed.exists()
    assert cleaned(folder, "--yes") == 0
    assert named
    assert all(path.exists() for path in named)
    assert (unnamed.exists(), persons.exists(), young.exists()) == (False, True, True)
    told = capsys.readouterr()
    assert "another store that shares this folder may name those artifacts" in told.err
    assert "artifacts that no trial names" in told.out


# ------------------------------------------------------------------------------------ not ours


def test_folders_of_studies_that_the_store_does_not_know_are_named_and_left(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "runs" / "faces", folder / "runs" / "lost")
    (folder / "runs" / "train" / "mine").mkdir(parents=True)
    old(folder / "runs" / "train" / "mine" / "best.pt")
    # it may be one that the lost study's trials will name again
    old(folder / "runs" / "artifacts" / str(uuid.uuid4()))
    before = {name for name in files(folder) if not name.startswith("faces")}
    assert cleaned(folder, "--yes") == 0
    assert {name for name in files(folder) if not name.startswith("faces")} == before
    told = capsys.readouterr().err
    assert told == (
        "note: left alone, with all artifacts, of no study of this store (search.rebuild may need"
        " it): lost\n"
    )


def test_what_another_study_of_the_same_name_left_stays(folder: Path) -> None:
    place = token_folders(folder, FAILED)[0] / "config.yaml"
    lines = place.read_text().splitlines(keepends=True)
    place.write_text(
        "".join(f"  study_uid: {'f' * 32}\n" if "study_uid:" in line else line for line in lines)
    )
    assert cleaned(folder, "--yes") == 0
    assert checkpoints(folder, FAILED) == ["1/best.pt", "1/last.pt"]


@pytest.mark.parametrize("depth", ["faces", f"faces/{FAILED}", "token"])
def test_links_are_not_followed(folder: Path, tmp_path: Path, depth: str) -> None:
    link = token_folders(folder, FAILED)[0] if depth == "token" else folder / "runs" / depth
    shutil.move(link, tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    before = {str(path) for path in (tmp_path / "elsewhere").rglob("*.pt")}
    assert cleaned(folder, "--yes") == 0
    assert {str(path) for path in (tmp_path / "elsewhere").rglob("*.pt")} == before != set()


# ------------------------------------------------------------------------------------ refusals


def test_an_unknown_study_a_missing_store_and_a_missing_folder_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cleaned(folder, "--study", "face") == 2
    assert "did you mean faces?" in error(capsys)
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    assert cleaned(tmp_path / "empty") == 2
    assert "does not exist" in error(capsys)
    assert not (tmp_path / "empty" / "search.db").exists()
    assert main(["--runs", str(tmp_path / "none")]) == 2
    assert "no such folder" in error(capsys)


def test_a_file_that_cannot_be_removed_is_named_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert cleaned(folder, "--yes") == 2
    assert ".pt: Input/output error; fix that" in error(capsys)
