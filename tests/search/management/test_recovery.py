from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import FrozenTrial, TrialState

from search.execution.worker_loop import work
from search.management.recovery import rebuilt
from search.rebuild import main
from search.results.export_formats import exported
from search.strategy.answers import Answer
from search.strategy.loading import load_study
from search.study.attributes import LOST
from search.study.lookup import load_setup
from search.study.run_records import recorded_studies
from search.study.setup import StudyError
from search.study.shared_state import drain, set_total, total_of
from search.trainers import faces
from storage import TrialEvent, open_storage
from tests.support.programs import command_study, program_at
from tests.support.studies import context_at, fit_and, real_study, store
from trainer import train
from trainer.errors import Diverged
from trainer.fit import fit

COMPLETE, DIVERGED, WAITING, CANCELLED, UNTOUCHED = range(5)


def diverging(config: Any, data: Any, **options: Any) -> Any:
    """Training that reports an epoch and then stops being a number."""

    def heard(progress: Any) -> None:
        options["report"](progress)
        raise Diverged("loss is nan at step 9")

    return fit(config, data, **(options | {"report": heard}))


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and the runs of five trials, one of them interrupted after an epoch."""
    there = tmp_path_factory.mktemp("rebuild")
    storage = store(there)
    study = real_study(storage, total=1, seed=3, ranges=("dice_weight=1:2",))
    study.enqueue_trial({"dropout": 0.1}, user_attrs={"note": "of mine: 1e-4", "priority": 2})
    with pytest.MonkeyPatch.context() as patch:
        work(context_at(there, storage))
        set_total(study, 2)
        patch.setattr(faces, "fit", diverging)
        work(context_at(there, storage))
        set_total(study, 3)
        patch.setattr(faces, "fit", fit_and(lambda: drain(study)))
        work(context_at(there, storage))
    for _ in range(2):
        study.enqueue_trial({"dropout": 0.2})
    cancelled = study.get_trials()[CANCELLED]
    storage.set_trial_user_attr(cancelled._trial_id, "cancelled", True)
    storage.set_trial_state_values(cancelled._trial_id, TrialState.FAIL)
    states = [trial.state for trial in study.get_trials()]
    wanted = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.WAITING, TrialState.FAIL]
    assert states == [*wanted, TrialState.WAITING]
    storage.close()
    return there


@pytest.fixture
def folder(lived: Path, tmp_path: Path) -> Path:
    """A copy of its runs alone: the store is lost."""
    shutil.copytree(lived / "runs", tmp_path / "runs")
    return tmp_path


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/search.db"


def rebuild(folder: Path, *flags: str) -> int:
    return main(["--storage", url(folder), "--runs", str(folder / "runs"), *flags])


def trials(folder: Path) -> list[FrozenTrial]:
    return load_study(store(folder), "faces").get_trials()


def token_folder(folder: Path, number: int) -> Path:
    """The folder of a trial's latest claim."""
    return max((folder / "runs" / "faces" / str(number)).iterdir(), key=lambda p: int(p.name))


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of the error; notes may stand before it."""
    told = capsys.readouterr()
    assert told.out == ""
    *notes, line = told.err.splitlines()
    assert line.startswith("error: ")
    assert all(note.startswith("note: ") for note in notes)
    return line


# -------------------------------------------------------------------------------- what comes back


def test_every_trial_that_has_begun_comes_back_as_it_was(
    lived: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(folder) == 0
    before, after = trials(lived), trials(folder)
    # the fifth had not begun, and nothing after it has
    assert len(after) == 3
    for old, new in zip(before, after, strict=False):
        for name in ("number", "state", "values", "params", "distributions", "user_attrs"):
            assert getattr(new, name) == getattr(old, name), (old.number, name)
        assert new.intermediate_values == old.intermediate_values
        assert new.constraints == old.constraints
        assert new.system_attrs == old.system_attrs
        assert new.datetime_start == old.datetime_start
        if old.datetime_complete is None:
            assert new.datetime_complete is None
        else:
            assert new.datetime_complete is not None
            apart = abs(new.datetime_complete - old.datetime_complete)
            assert apart < timedelta(seconds=10)
    assert after[DIVERGED].constraints == {"diverged": 1.0}
    assert after[COMPLETE].user_attrs["note"] == "of mine: 1e-4"
    assert "f_score_full" in after[COMPLETE].user_attrs
    assert len(after[WAITING].intermediate_values) == 1
    names = {
        meta.filename for meta in get_all_artifact_meta(after[COMPLETE], storage=store(folder))
    }
    assert names == {"config.yaml", "contact_sheet.png"}
    said = capsys.readouterr()
    assert said.err == ""
    first = said.out.splitlines()[0]
    assert first.startswith("study faces: 3 trials came back (1 complete, 1 pruned, 1 waiting)")
    assert f"best: trial 0, f_score {before[COMPLETE].value:.4f}" in first
    assert "2 of 3 finished" in said.out
    assert f"-m search.worker --storage {url(folder)} --study faces" in said.out


def events(folder: Path, number: int) -> list[TrialEvent]:
    row = trials(folder)[number]
    return store(folder).events_of([row._trial_id])


def test_what_happened_to_each_trial_comes_back(lived: Path, folder: Path) -> None:
    assert rebuild(folder) == 0
    for number in (COMPLETE, DIVERGED):
        old, new = events(lived, number), events(folder, number)
        assert [event.event for event in old][:2] == ["claimed", "started"]
        assert new[:-1] == old[:-1]
        # the end is written after the files
        assert (new[-1].event, new[-1].cause) == (old[-1].event, "rebuilt")
        assert (new[-1].number, new[-1].token) == (number, old[-1].token)
    assert dict(events(folder, COMPLETE)[-1].detail) == {"value": trials(lived)[COMPLETE].value}
    waiting = events(folder, WAITING)
    assert [event.event for event in waiting] == ["claimed", "requeued"]
    assert waiting[0] == events(lived, WAITING)[0]


def test_files_of_an_earlier_version_tell_the_claims(folder: Path) -> None:
    for path in folder.glob("runs/faces/*/*/config.yaml"):
        content = yaml.safe_load(path.read_text())
        del content["search"]["row"]["events"]
        path.write_text(yaml.safe_dump(content))
    assert rebuild(folder) == 0
    token = int(token_folder(folder, COMPLETE).name)
    claimed, ended = events(folder, COMPLETE)
    assert (claimed.event, claimed.cause, claimed.token) == ("claimed", "rebuilt", token)
    assert (ended.event, ended.token) == ("finished", token)
    assert claimed.time < ended.time


def test_the_study_comes_back_with_its_setup_and_total(lived: Path, folder: Path) -> None:
    assert rebuild(folder) == 0
    old, new = load_study(store(lived), "faces"), load_study(store(folder), "faces")
    setup = load_setup(new)
    assert setup == load_setup(old)
    assert list(setup.space) == list(load_setup(old).space)
    assert total_of(new) == total_of(old) == 3
    assert new.metric_names == old.metric_names
    assert new.direction == old.direction


def test_the_best_trial_is_exported_as_before(lived: Path, folder: Path) -> None:
    assert rebuild(folder) == 0
    texts = []
    for there in (lived, folder):
        study = load_study(store(there), "faces")
        texts.append(exported(study, Answer(study.best_trial), command="same"))
    assert texts[0] == texts[1]


def test_the_rebuilt_study_goes_on_to_the_digits_of_the_former_one(
    lived: Path, folder: Path, tmp_path: Path
) -> None:
    assert rebuild(folder) == 0
    # the former study goes on too, in a copy
    twin = tmp_path / "twin"
    twin.mkdir()
    shutil.copytree(lived / "runs", twin / "runs")
    shutil.copy(lived / "search.db", twin)
    for there in (folder, twin):
        work(context_at(there, store(there)))
    old, new = trials(twin)[WAITING], trials(folder)[WAITING]
    assert new.state == TrialState.COMPLETE
    assert new.intermediate_values == old.intermediate_values
    assert (new.value, new.params, new.user_attrs) == (old.value, old.params, old.user_attrs)
    # it went on from the checkpoint: a whole training would have made its own first epoch
    history = json.loads((token_folder(folder, WAITING) / "history.json").read_text())
    assert len(history) == 4
    assert not any(t.user_attrs.get("exceptions") for t in trials(folder))


@pytest.mark.long
def test_the_same_command_with_a_bigger_total_adds_trials_behind_the_rebuilt_ones(
    folder: Path,
) -> None:
    assert rebuild(folder) == 0
    storage = store(folder)
    uid = load_setup(load_study(storage, "faces")).uid
    # what the same command of search.run comes to
    study = real_study(storage, total=4, seed=3, ranges=("dice_weight=1:2",))
    assert load_setup(study).uid == uid
    work(context_at(folder, storage))
    states = [trial.state.name for trial in trials(folder)]
    assert states == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]


@pytest.mark.long
def test_a_study_can_be_lost_and_rebuilt_twice(folder: Path) -> None:
    assert rebuild(folder) == 0
    work(context_at(folder, store(folder)))
    once = trials(folder)
    # the claims of the second life stand above all of the first, so their records win
    (folder / "search.db").unlink()
    assert rebuild(folder) == 0
    assert [(t.state, t.value) for t in trials(folder)] == [(t.state, t.value) for t in once]


def test_a_record_of_the_runs_folder_still_trains(folder: Path) -> None:
    flags = ["--config", str(token_folder(folder, COMPLETE) / "config.yaml"), "--device", "cpu"]
    assert train.main([*flags, "--out", str(folder / "again")]) == 0


# ------------------------------------------------------------------------------ what cannot come


def test_a_number_without_files_is_filled_with_an_uncounted_row(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / "runs" / "faces" / str(DIVERGED))
    assert rebuild(folder) == 0
    row = trials(folder)[DIVERGED]
    assert (row.state, row.user_attrs) == (TrialState.FAIL, {LOST: "no files"})
    storage = store(folder)
    assert storage.count_finished(load_study(storage, "faces")._study_id) == 1
    said = capsys.readouterr().out
    assert "lost: 1 trial (1), uncounted: " in said
    assert "--from takes again" in said


@pytest.mark.parametrize(
    "content", [{"row": 5}, {"row": {}}, {"setup": "x"}, {"setup": {}}, {"params": [1]}]
)
def test_a_record_that_holds_something_else_is_named_and_costs_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str], content: dict[str, Any]
) -> None:
    # the newest, which the study's setup is taken from
    path = token_folder(folder, WAITING) / "config.yaml"
    record = yaml.safe_load(path.read_text())
    record["search"] |= content
    path.write_text(yaml.safe_dump(record))
    assert rebuild(folder) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path.parent) in line
    assert "cannot be used" in line
    states = [trial.state.name for trial in trials(folder)]
    # without its setup alone a trial is whole: others hold that too
    assert states == ["COMPLETE", "PRUNED", "WAITING" if "setup" in content else "FAIL"]


def test_a_damaged_record_is_named_and_costs_its_own_trial_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = token_folder(folder, COMPLETE) / "config.yaml"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert rebuild(folder) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert str(path.parent) in told[0]
    states = [trial.state.name for trial in trials(folder)]
    assert states == ["FAIL", "PRUNED", "WAITING"]
    assert str(path.parent) in trials(folder)[COMPLETE].user_attrs[LOST]


def test_the_record_of_a_later_claim_outdoes_one_that_says_complete(folder: Path) -> None:
    # a worker that died between its record and its verdict
    first, later = token_folder(folder, COMPLETE), folder / "runs" / "faces" / "0" / "99"
    later.mkdir()
    record = yaml.safe_load((first / "config.yaml").read_text())
    record["search"]["row"] |= {"state": "RUNNING", "ended": None}
    (later / "config.yaml").write_text(yaml.safe_dump(record))
    assert rebuild(folder) == 0
    row = trials(folder)[COMPLETE]
    assert row.state == TrialState.WAITING
    assert len(row.intermediate_values) == 4


def test_epochs_that_were_never_reported_are_not_made_up(lived: Path, folder: Path) -> None:
    path = token_folder(folder, DIVERGED) / "history.json"
    history = json.loads(path.read_text())
    path.write_text(json.dumps([*history, {"epoch": 2, "val_f": 0.9}]))
    assert rebuild(folder) == 0
    former = trials(lived)[DIVERGED]
    assert trials(folder)[DIVERGED].intermediate_values == former.intermediate_values
    assert trials(folder)[DIVERGED].value == former.value


def test_of_two_studies_of_one_name_the_later_comes_back(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(token_folder(folder, DIVERGED), folder / "runs" / "faces" / "0" / "1000")
    path = folder / "runs" / "faces" / "0" / "1000" / "config.yaml"
    record = yaml.safe_load(path.read_text())
    record["search"] |= {"study_uid": "f" * 32, "trial": 0}
    record["search"]["row"]["written"] = "2020-01-01T00:00:00+00:00"
    path.write_text(yaml.safe_dump(record))
    assert rebuild(folder) == 0
    assert trials(folder)[COMPLETE].state == TrialState.COMPLETE
    told = capsys.readouterr().err
    assert told == "note: study faces: an earlier study of this name is left alone (1 records)\n"


def test_two_trials_that_left_files_under_one_number_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = token_folder(folder, COMPLETE)
    later = earlier.with_name("1000")
    shutil.copytree(earlier, later)
    record = yaml.safe_load((later / "config.yaml").read_text())
    record["search"]["params"]["dice_weight"] = 1.25
    (later / "config.yaml").write_text(yaml.safe_dump(record))
    assert rebuild(folder) == 0
    assert trials(folder)[COMPLETE].params["dice_weight"] == 1.25
    told = capsys.readouterr().err
    assert f"note: trial {COMPLETE}: several trials left files under this number" in told
    assert told.endswith(f"the one that began last comes back ({later})\n")


def test_records_of_an_earlier_version_are_refused_with_the_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folder / "runs" / "faces").rglob("config.yaml"):
        record = yaml.safe_load(path.read_text())
        for key in ("row", "setup", "total"):
            del record["search"][key]
        path.write_text(yaml.safe_dump(record))
    assert rebuild(folder) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert (
        "3 of its trials were written by an earlier version, whose files lack the ranges" in told[0]
    )
    assert not (folder / "search.db").exists()


# ------------------------------------------------------------------------------------- refusals


def test_a_study_that_is_in_the_store_is_left_as_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(folder) == 0
    before = trials(folder)
    capsys.readouterr()
    assert rebuild(folder) == 2
    assert 'the store has a study "faces" with trials already' in refusal(capsys)
    assert trials(folder) == before


def test_every_study_comes_back_but_those_that_are_there_already(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(folder, "--study", "faces") == 0
    shutil.copytree(folder / "runs" / "faces", folder / "runs" / "other")
    for path in (folder / "runs" / "other").rglob("config.yaml"):
        record = yaml.safe_load(path.read_text())
        record["search"] |= {"study": "other", "study_uid": "f" * 32}
        record["search"]["setup"] |= {"name": "other", "uid": "f" * 32}
        path.write_text(yaml.safe_dump(record))
    capsys.readouterr()
    # an interrupted rebuild of several is repeated with the same command
    assert rebuild(folder) == 0
    told = capsys.readouterr()
    assert told.out.startswith("study other: 3 trials came back")
    assert told.err.startswith('note: the store has a study "faces" with trials already')
    names = [study.study_name for study in store(folder).get_all_studies()]
    assert names == ["faces", "other"]


@pytest.mark.parametrize("flags", [(), ("--study", "other")])
def test_a_folder_without_such_a_study_is_refused_and_no_store_is_made(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    if not flags:
        shutil.rmtree(folder / "runs" / "faces")
    assert rebuild(folder, *flags) == 2
    assert "holds no trial of" in refusal(capsys)
    assert not (folder / "search.db").exists()


def test_a_folder_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(tmp_path) == 2
    assert "no such folder" in refusal(capsys)


# ------------------------------------------------------------------------------- interruptions


class _Killed(BaseException):
    """Ends the rebuild where it stands."""


def test_an_interrupted_rebuild_is_repeated_and_nobody_can_work_on_half_a_study(
    lived: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,), _ = recorded_studies(folder / "runs")
    storage = store(folder)
    add_trial = optuna.Study.add_trial

    def add_one(study: optuna.Study, trial: FrozenTrial) -> None:
        add_trial(study, trial)
        raise _Killed

    monkeypatch.setattr(optuna.Study, "add_trial", add_one)
    with pytest.raises(_Killed):
        rebuilt(storage, found)
    monkeypatch.undo()
    with pytest.raises(StudyError, match="was not made by search.run"):
        load_study(storage, "faces")
    assert rebuild(folder) == 0
    assert [t.value for t in trials(folder)] == [t.value for t in trials(lived)[:3]]


def test_a_study_comes_back_in_any_kind_of_store(lived: Path, folder: Path, store_url: str) -> None:
    assert main(["--storage", store_url, "--runs", str(folder / "runs"), "--study", "faces"]) == 0
    storage = open_storage(store_url)
    study = load_study(storage, "faces")
    assert [t.value for t in study.get_trials()] == [t.value for t in trials(lived)[:3]]
    former = max(int(f.name) for f in (folder / "runs" / "faces").glob("*/*"))
    assert (storage.take_slot(study._study_id, None, "test") or 0) > former
    storage.close()


def test_what_a_sleeping_owner_wrote_later_changes_no_value(lived: Path, folder: Path) -> None:
    path = token_folder(folder, COMPLETE) / "history.json"
    history = json.loads(path.read_text())
    # its own last epoch, trained on another kind of machine and never reported
    history[-1]["val_f"] += 0.25
    path.write_text(json.dumps(history))
    assert rebuild(folder) == 0
    former, row = trials(lived)[COMPLETE], trials(folder)[COMPLETE]
    assert (row.value, row.intermediate_values) == (former.value, former.intermediate_values)


def test_revivals_come_back_as_the_rows_that_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = store(tmp_path)
    study = real_study(storage, total=2, pruner="none", revive=2)
    acts = [2, 1, None, "leave"]

    def scripted(config: Any, data: Any, **options: Any) -> Any:
        act = acts.pop(0) if acts else None

        def heard(progress: Any) -> None:
            if act == "leave":
                drain(study)
            options["report"](progress)
            if progress.epoch == act:
                raise optuna.TrialPruned

        return fit(config, data, **(options | {"report": heard}))

    monkeypatch.setattr(faces, "fit", scripted)
    work(context_at(tmp_path, storage))
    before = trials(tmp_path)
    states = [trial.state for trial in before]
    assert states == [*[TrialState.PRUNED] * 2, TrialState.COMPLETE, TrialState.WAITING]
    storage.close()
    (tmp_path / "search.db").unlink()
    assert rebuild(tmp_path) == 0
    after = trials(tmp_path)
    for old, new in zip(before, after, strict=True):
        assert (new.state, new.user_attrs) == (old.state, old.user_attrs)
        assert new.intermediate_values == old.intermediate_values
    storage = store(tmp_path)
    assert storage.count_finished(load_study(storage, "faces")._study_id) == 2
    work(context_at(tmp_path, storage))
    *_, last = trials(tmp_path)
    assert last.state == TrialState.COMPLETE
    assert min(last.intermediate_values) > 1


def test_the_best_of_a_program_is_told_by_its_own_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "def train(config): return config['x'] + 2\n"
    program_at(tmp_path, text, "lossy.py")
    storage = store(tmp_path)
    options = {"function": "lossy:train", "direction": "minimize", "metric": "val_loss"}
    command_study(storage, tmp_path, total=1, **options)
    work(context_at(tmp_path, storage, "own"))
    storage.close()
    for path in tmp_path.glob("search.db*"):
        path.unlink()
    assert rebuild(tmp_path) == 0
    assert "; best: trial 0, -val_loss -2." in capsys.readouterr().out
