from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from search.execution.worker_loop import work
from search.management.opening import open_study
from search.results.export_formats import exported
from search.strategy.answers import Answer
from search.strategy.forecast.features import ConfigurationFeatures
from search.strategy.forecast.model import Forecast, prior_from
from search.strategy.forecast.priors import KeptForecast
from search.strategy.forecast.study_forecast import StudyForecast
from search.strategy.loading import load_study
from search.strategy.revival import SHARE, Revivals, allowance, parked, revival_row, trial_to_revive
from search.study.lineages import best_of, merged, rows_of
from search.study.lookup import load_setup
from search.study.run_folders import trial_folder
from search.study.setup import CHANGEABLE
from search.study.shared_state import drain, set_total
from search.trainers import faces
from storage import LeasedStorage
from tests.search.study.test_lineages import C, F, P, R, W, row
from tests.support.curves import BAD, EPOCHS, GOOD, MIDDLING, bank, trained
from tests.support.studies import context_at, real_study, start_worker, store, wait_until
from trainer.config import config_from_dict, load_yaml
from trainer.data.dataset import load_faces
from trainer.fit import fit

SIX = {"epochs": 6}


# ------------------------------------------------------------------------------- which, and when


START = prior_from(bank())


def chosen(rows: list[FrozenTrial], *, total: int = 0, **options: Any) -> int | None:
    """At the end of the budget, unless a total is given."""
    study_forecast = StudyForecast(
        Forecast([START], ConfigurationFeatures(EPOCHS)), [curve.params for curve in bank(20)]
    )
    given: dict[str, Any] = {"limit": None, "risk": 0.05}
    return trial_to_revive(rows, study_forecast, epochs=EPOCHS, total=total, **(given | options))


def whole(number: int, base: Mapping[str, Any]) -> FrozenTrial:
    return trained(base, number=number)


def cut(number: int, base: Mapping[str, Any], epochs: int = 8, **attrs: Any) -> FrozenTrial:
    return trained(base, number=number, state=P, epochs=epochs, attrs=attrs)


def again(
    number: int, parent: FrozenTrial, state: TrialState, epochs: Sequence[int] = ()
) -> FrozenTrial:
    """A revival of a made-up training that has come so far."""
    one = trained(parent.params, number=number, state=state, attrs={"continues": parent.number})
    one.intermediate_values = {epoch: one.intermediate_values[epoch] for epoch in epochs}
    return one


def cheap(count: int, first: int = 100) -> list[FrozenTrial]:
    """Trials pruned early, hopeless: what they saved may be spent."""
    return [cut(number, BAD, 3) for number in range(first - count, first)]


SOME = [whole(0, MIDDLING), cut(1, BAD), cut(2, GOOD)]


def test_the_most_promising_parked_trial_goes_on_first() -> None:
    assert chosen(SOME, limit=2) == 2
    assert chosen([*SOME, again(3, SOME[2], P, (9, 10))], limit=2) == 1


def test_a_number_of_revivals_waits_for_the_end_and_is_kept() -> None:
    assert chosen(SOME, limit=2, total=4) is None
    # every place is taken
    assert chosen([*SOME, trained(GOOD, number=3, state=R, epochs=1)], limit=2, total=4) == 2
    assert chosen(SOME, limit=0) is None
    gone_on = [*SOME, again(3, SOME[2], C, range(9, 25))]
    assert chosen(gone_on, limit=1) is None
    assert chosen(gone_on, limit=2) == 1
    # one that failed was none, and is not tried again
    assert chosen([*SOME, row(3, F, {}, continues=2)], limit=1) == 1


def test_nothing_to_go_on_with_is_none() -> None:
    diverged = cut(3, GOOD)
    diverged.system_attrs = {"constraints:diverged": 1.0}
    under_way = [cut(6, GOOD), row(7, W, {}, continues=6)]
    others = [cut(1, GOOD, stopped=True), cut(2, GOOD, copied_from="old/2"), diverged]
    rows = [whole(0, MIDDLING), *others, *under_way, row(8, P, {})]
    assert parked(rows) == []
    assert chosen(rows, limit=9) is None


def test_what_was_revived_and_pruned_again_waits_for_new_evidence() -> None:
    rows = [*SOME[:2], cut(2, GOOD), again(3, SOME[2], P, (9, 10))]
    assert [number for number, _ in parked(rows)] == [1]
    number, one = parked([*rows, whole(4, BAD)])[1]
    assert (number, one.number, max(one.intermediate_values)) == (3, 2, 10)


def test_only_what_may_still_be_the_best_goes_on_by_itself() -> None:
    saved = cheap(40)
    middling, good, bad = whole(0, MIDDLING), whole(0, GOOD), whole(0, BAD)
    assert chosen([middling, cut(2, GOOD), *saved]) == 2
    assert chosen([good, cut(2, BAD), *saved]) is None
    # in between, one that is clearly ahead of all that is still to come
    assert chosen([middling, cut(2, MIDDLING), *saved], total=999) is None
    assert chosen([bad, cut(2, GOOD, 20), *saved], total=60) == 2


def test_more_risk_revives_less() -> None:
    rows = [whole(0, MIDDLING), cut(2, {**MIDDLING, "label_smoothing": 0.06}), *cheap(40)]
    assert chosen(rows, risk=0.001) == 2
    assert chosen(rows, risk=0.4) is None


def test_a_share_of_what_was_saved_is_spent_and_no_more() -> None:
    rows = [whole(0, MIDDLING), cut(2, GOOD, 8), *cheap(3)]
    # 16 epochs to go; the others saved 21 each, this one 16
    assert allowance(rows, EPOCHS) == pytest.approx(SHARE * (16 + 63))
    assert chosen(rows) == 2
    assert chosen([*rows[:2], *cheap(2)]) is None
    # one under way is counted to its end
    rows = [*rows, again(100, rows[1], R, (9,))]
    assert allowance(rows, EPOCHS) == pytest.approx(SHARE * 79 - 16)
    rows[-1] = again(100, rows[1], C, (9, 10))
    assert allowance(rows, EPOCHS) == pytest.approx(SHARE * 79 - 2)


def test_a_trial_that_cannot_go_on_is_passed_over() -> None:
    assert chosen(SOME, limit=2, without={2}) == 1


def test_a_study_without_a_complete_trial_gets_one_at_its_end() -> None:
    rows = [cut(1, BAD, 6), *cheap(3)]
    assert chosen(rows, total=9) is None
    assert chosen(rows) is not None


def test_a_revival_inherits_what_makes_its_curve_and_nothing_of_how_it_ended() -> None:
    parent = row(
        3,
        P,
        {4: 0.24},
        seed=7,
        runtime={"threads": 1},
        reason="pruned after epoch 4",
        exceptions=1,
        enqueued="mark",
        priority=4,
        best_epoch=4,
    )
    child = revival_row(parent)
    assert child.user_attrs == {"seed": 7, "runtime": {"threads": 1}, "continues": 3}
    assert (child.params, child.distributions) == (parent.params, parent.distributions)
    assert (child.state, child.intermediate_values) == (R, {})


# ------------------------------------------------------------------------------- in real studies


def cut_at(*epochs: int | None, then: Callable[[int], None] = lambda call: None) -> Any:
    """Training that a pruner ends: the first one after epoch epochs[0], and so on; None: never.

    then: called with the number of the training at each of its epochs.
    """
    calls = list(epochs)
    count = 0

    def run(config: Any, data: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        call, last = count, calls.pop(0) if calls else None

        def heard(progress: Any) -> None:
            then(call)
            options["report"](progress)
            if progress.epoch == last:
                raise optuna.TrialPruned(f"after epoch {last}")

        return fit(config, data, **(options | {"report": heard}))

    return run


def study_at(folder: Path, **options: Any) -> tuple[LeasedStorage, optuna.Study]:
    storage = store(folder)
    given: dict[str, Any] = {"total": 1, "pruner": "none", "config": SIX}
    return storage, real_study(storage, **(given | options))


def change(storage: LeasedStorage, study: optuna.Study, **changes: Any) -> None:
    """What the same command does with other flags."""
    setup = load_setup(study)
    for name, value in changes.items():
        object.__setattr__(setup, name, value)
    open_study(storage, setup, explicit=CHANGEABLE)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two trials that nobody pruned, and the histories that they left."""
    folder = tmp_path_factory.mktemp("unbroken")
    storage, study = study_at(folder, total=2)
    work(context_at(folder, storage))
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [C, C]
    return trials, [history(folder, number) for number in range(2)]


def history(folder: Path, number: int) -> list[dict[str, Any]]:
    """What the latest claim on a row wrote, without what differs from run to run."""
    found = latest(folder, number, "history.json")
    rows: list[dict[str, Any]] = json.loads(found.read_text(encoding="utf-8"))
    return [{key: item for key, item in entry.items() if key != "seconds"} for entry in rows]


def latest(folder: Path, number: int, name: str) -> Path:
    tokens = trial_folder(folder / "runs", "faces", number).iterdir()
    return max(tokens, key=lambda path: int(path.name)) / name


def test_a_revived_trials_curve_is_the_unbroken_one_to_the_last_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Any
) -> None:
    (whole, _), (written, _) = unbroken
    storage, study = study_at(tmp_path, revive=1)
    monkeypatch.setattr(faces, "fit", cut_at(2))
    work(context_at(tmp_path, storage))
    parent, child = study.get_trials()
    assert (parent.state, child.state) == (P, C)
    assert child.user_attrs["continues"] == 0
    assert "reason" not in child.user_attrs
    assert (parent.params, child.params) == (whole.params, whole.params)
    assert (sorted(parent.intermediate_values), sorted(child.intermediate_values)) == (
        [1, 2],
        [3, 4, 5, 6],
    )
    answer = best_of(study.get_trials(deepcopy=False))
    assert answer is not None
    assert (answer.number, answer.value) == (0, whole.value)
    assert answer.intermediate_values == whole.intermediate_values
    assert history(tmp_path, 1) == written
    # counted once, and nothing is left to do
    assert storage.count_finished(study._study_id) == 1
    assert storage.live_claims(study._study_id) == []
    work(context_at(tmp_path, storage))
    assert len(study.get_trials()) == 2


@pytest.mark.long
def test_what_is_exported_of_a_revived_answer_trains_to_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, study = study_at(tmp_path, revive=1)
    monkeypatch.setattr(faces, "fit", cut_at(2))
    work(context_at(tmp_path, storage))
    answer = best_of(study.get_trials(deepcopy=False))
    assert answer is not None
    texts = [exported(study, Answer(answer), command="export")]
    texts.append(latest(tmp_path, 1, "config.yaml").read_text(encoding="utf-8"))
    for text in texts:
        content = load_yaml(text, "export")
        record = content.pop("search")
        assert record["value"] == answer.value
        config = config_from_dict(content)
        data = load_faces("synthetic", image_size=16, synthetic_images=40, parts=("train", "val"))
        result = fit(config, data, out=tmp_path / "again")
        assert (result.best_f_score, result.best_epoch) == (record["value"], record["epoch"])


def test_a_revival_killed_in_the_middle_ends_as_the_unbroken_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = {"epochs": 12}
    whole = tmp_path / "whole"
    whole.mkdir()
    storage, study = study_at(whole, config=long)
    work(context_at(whole, storage))
    (one,) = study.get_trials()
    storage, study = study_at(tmp_path, config=long, revive=0)
    monkeypatch.setattr(faces, "fit", cut_at(2))
    work(context_at(tmp_path, storage))
    assert [trial.state for trial in study.get_trials()] == [P]
    change(storage, study, revive=1)
    killed = start_worker(tmp_path)

    def epochs() -> int:
        rows = load_study(storage, "faces").get_trials(deepcopy=False)
        return len(rows[1].intermediate_values) if len(rows) > 1 else 0

    wait_until(lambda: epochs() >= 2, "the second epoch after the revival")
    killed.kill()
    killed.communicate()
    assert study.get_trials()[1].state == R
    out, err = start_worker(tmp_path).communicate(timeout=120)
    assert err == ""
    assert "trial 1: COMPLETE" in out
    rows = study.get_trials()
    assert [row.state for row in rows] == [P, C]
    (joined,) = merged(rows)
    assert joined.intermediate_values == one.intermediate_values
    assert joined.value == one.value
    assert len(list(trial_folder(tmp_path / "runs", "faces", 1).iterdir())) == 2


@pytest.mark.long
def test_a_revival_that_is_pruned_again_can_be_revived_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Any
) -> None:
    (whole, _), (written, _) = unbroken
    storage, study = study_at(tmp_path, revive=2)
    # trial 0 and its revival are pruned; the next trial is complete, and is evidence
    monkeypatch.setattr(faces, "fit", cut_at(2, 3, None, None))
    work(context_at(tmp_path, storage))
    assert [trial.state for trial in study.get_trials()] == [P, P]
    set_total(study, 2)
    work(context_at(tmp_path, storage))
    rows = study.get_trials()
    assert [trial.state for trial in rows] == [P, P, C, C]
    assert [trial.user_attrs.get("continues") for trial in rows] == [None, 0, None, 1]
    assert [one.number for one in rows_of(rows, rows[3])] == [0, 1, 3]
    joined, _ = merged(rows)
    assert joined.intermediate_values == whole.intermediate_values
    assert [len(row.intermediate_values) for row in rows] == [2, 1, 6, 3]
    assert history(tmp_path, 3) == written


def test_an_interrupted_revival_waits_and_goes_on_though_every_place_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Any
) -> None:
    (whole, _), _ = unbroken
    storage, study = study_at(tmp_path, revive=1)

    def leave(call: int) -> None:
        if call == 2:
            drain(study)

    monkeypatch.setattr(faces, "fit", cut_at(2, then=leave))
    work(context_at(tmp_path, storage))
    rows = study.get_trials()
    assert [trial.state for trial in rows] == [P, W]
    assert sorted(rows[1].intermediate_values) == [3]
    # one that was begun is finished, whatever is asked for now
    change(storage, study, revive=0)
    work(context_at(tmp_path, storage))
    rows = study.get_trials()
    assert [trial.state for trial in rows] == [P, C]
    assert merged(rows)[0].intermediate_values == whole.intermediate_values


def test_a_parked_trial_without_its_checkpoint_is_passed_over_and_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage, study = study_at(tmp_path, total=2, revive=0)
    monkeypatch.setattr(faces, "fit", cut_at(2, 2))
    work(context_at(tmp_path, storage))
    first, second = (len(t.intermediate_values) for t in study.get_trials())
    assert (first, second) == (2, 2)
    told: list[str] = []
    revivals = Revivals(KeptForecast(study), tmp_path / "runs", told.append)
    change(storage, study, revive=2)
    trials = study.get_trials()
    number = revivals.next(trials, load_setup(study), 2)
    assert number is not None
    (latest(tmp_path, number, "last.pt")).unlink()
    for _ in range(2):
        assert revivals.next(trials, load_setup(study), 2) == 1 - number
    assert told == [f"trial {number} cannot go on: its checkpoint is gone; passed over"]
    caplog.set_level("INFO", "search")
    work(context_at(tmp_path, storage))
    assert caplog.text.count("cannot go on") == 1
    rows = study.get_trials()
    assert [trial.user_attrs.get("continues") for trial in rows] == [None, None, 1 - number]


@pytest.mark.long
def test_two_workers_never_revive_the_same_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, study = study_at(tmp_path, total=3, revive=0)
    monkeypatch.setattr(faces, "fit", cut_at(2, 2, 2))
    work(context_at(tmp_path, storage))
    change(storage, study, revive=2)
    workers = [start_worker(tmp_path) for _ in range(2)]
    for worker in workers:
        _, err = worker.communicate(timeout=120)
        assert (worker.returncode, err) == (0, "")
    rows = study.get_trials()
    parents = [trial.user_attrs["continues"] for trial in rows[3:]]
    assert len(parents) == len(set(parents)) == 2
    assert {trial.state for trial in rows[3:]} == {TrialState.COMPLETE}


def test_nothing_is_revived_where_nothing_is_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, study = study_at(tmp_path, revive=0)
    monkeypatch.setattr(faces, "fit", cut_at(2))
    work(context_at(tmp_path, storage))
    assert len(study.get_trials()) == 1


def test_other_flags_change_how_a_study_revives(tmp_path: Path) -> None:
    storage, study = study_at(tmp_path)
    setup = load_setup(study)
    assert (setup.revive, setup.prune_risk) == ("auto", 0.01)
    change(storage, study, revive=3, prune_risk=0.2)
    setup = load_setup(load_study(storage, "faces"))
    assert (setup.revive, setup.prune_risk) == (3, 0.2)
    # a store of an earlier version
    stored: Mapping[str, Any] = {
        key: item for key, item in setup.to_json().items() if key not in ("revive", "prune_risk")
    }
    earlier = type(setup).from_json(stored)
    assert (earlier.revive, earlier.prune_risk) == ("auto", 0.05)
