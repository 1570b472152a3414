from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.execution.worker_loop import work
from search.management.cleanup import useless_of_study
from search.results.answer import study_answer
from search.results.evidence import Evidence
from search.results.export_formats import chosen_trial, exported
from search.results.findings.pruning_and_queue import pruning_sentences
from search.results.reading import results_of
from search.results.trial_life import line
from search.strategy.answers import LEAST
from search.strategy.loading import load_study
from search.strategy.pruners import MergedPruner, RestartAwarePruner
from search.strategy.repeating import Repeat, allowance, best_repeat, repeat_row
from search.study import lineages
from search.study.drawing import drawn
from search.study.lookup import load_setup
from search.study.run_records import recorded_studies
from search.study.search_space import distribution
from search.study.setup import Setup, trial_seed
from search.study.shared_state import drain, set_total
from search.trainers import faces
from storage import LeasedStorage
from tests.search.strategy.test_answers import (
    EPOCHS,
    NOISE,
    SPECS,
    answer,
    row,
    searched,
    study_forecast,
)
from tests.search.strategy.test_revival import change, cut_at
from tests.support.studies import context_at, real_study, setup_of, start_worker, store
from trainer.fit import fit

C, P, R, W, F = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.RUNNING,
    TrialState.WAITING,
    TrialState.FAIL,
)


def best(rows: Sequence[FrozenTrial], share: float = 0.25) -> Repeat | None:
    return best_repeat(rows, SPECS, study_forecast(), epochs=EPOCHS, share=share)


def chosen(rows: Sequence[FrozenTrial], share: float = 0.25) -> int | None:
    found = best(rows, share)
    return None if found is None else found.number


def parked(first: int, count: int, epochs: int = 4) -> list[FrozenTrial]:
    """Trials that were pruned early: what they saved may be spent."""
    rng = random.Random(first)
    rows = [row(first + place, drawn(SPECS, rng.random), 0.6, P) for place in range(count)]
    for one in rows:
        one.intermediate_values = dict.fromkeys(range(1, epochs + 1), 0.6)
    return rows


def again(of: FrozenTrial, number: int, state: TrialState, score: float = 0.0) -> FrozenTrial:
    """A repeat of a trial."""
    one = repeat_row(of, gain=0.1)
    one.number, one.state = number, state
    if state == C:
        one.values = [score]
    one.intermediate_values = dict.fromkeys(range(1, EPOCHS + 1), score) if score else {}
    return one


def rivals(apart: float) -> list[FrozenTrial]:
    """Complete trials of which two lead, so much apart, and what pruning has saved."""
    rows = searched(14, 1)
    rows.sort(key=lambda one: -(one.value or 0.0))
    for number, one in enumerate(rows):
        one.number = number
    rows[0].values = [(rows[1].value or 0.0) + apart]
    return [*rows, *parked(14, 26)]


# ------------------------------------------------------------------------------- which, and when


def test_a_leading_trial_is_repeated_and_the_same_evidence_gives_the_same_answer() -> None:
    rows = rivals(0.0)
    number = chosen(rows)
    assert number is not None
    better = sorted((one.value or 0.0 for one in rows[:14]), reverse=True)[:4]
    assert rows[number].value in better
    assert chosen(list(rows)) == number


def test_where_the_leader_is_far_ahead_nothing_is_repeated() -> None:
    near, far = best(rivals(0.0)), rivals(0.1)
    assert near is not None
    assert near.gain >= 0.02
    assert best(far) is None


def test_nothing_is_repeated_while_a_trial_runs_or_waits_or_few_are_complete() -> None:
    rows = rivals(0.0)
    waits = [row(40, rows[0].params, 0.6, state) for state in (R, W)]
    assert all(chosen([*rows, one]) is None for one in waits)
    few = [one for one in rows if one.state == P or one.number < LEAST - 1]
    assert chosen(few) is None


def test_what_pruning_saved_bounds_the_repeats() -> None:
    rows = rivals(0.0)
    whole = [one for one in rows if one.state == C]
    assert allowance(rows, EPOCHS, 0.25) == 0.25 * 26 * 20
    # without pruning nothing is saved
    assert chosen(whole) is None
    assert chosen(rows, share=0.0) is None
    # one of four epochs' pruning less than a training
    assert chosen([*whole, *parked(14, 4)]) is None
    assert chosen([*whole, *parked(14, 5)]) is not None
    # a repeat under way counts to its end, a copied one was trained elsewhere
    spent = [again(rows[0], 40, C, 0.77), again(rows[1], 41, R)]
    assert allowance([*rows, *spent], EPOCHS, 0.25) == 130 - 2 * EPOCHS
    spent[0].user_attrs["copied_from"] = "old/7"
    assert allowance([*rows, *spent], EPOCHS, 0.25) == 130 - EPOCHS
    # and so do revivals
    revived = row(42, rows[14].params, 0.7, continues=14)
    assert allowance([*rows, revived], EPOCHS, 0.25) == 0.25 * (26 * 20 - 1)


@pytest.mark.parametrize("state", [R, W, F, P])
def test_each_is_repeated_by_one_and_one_that_came_to_nothing_is_left(state: TrialState) -> None:
    rows = rivals(0.0)
    first = chosen(rows)
    assert first is not None
    rows.append(again(rows[first], 40, state))
    other = chosen(rows)
    assert other not in (None, first)


def test_a_repeat_has_the_parameters_and_nothing_else_of_its_trial() -> None:
    of = row(3, searched(1, 0)[0].params, 0.7, seed=7, runtime={"threads": 1}, enqueued="mark")
    made = repeat_row(of, gain=0.3)
    assert made.user_attrs == {"repeats": 3, "gain": 0.3}
    assert (made.params, made.distributions) == (of.params, of.distributions)
    assert (made.state, made.intermediate_values) == (R, {})


def test_repeats_find_the_better_of_two_that_luck_has_swapped() -> None:
    """In a landscape that is known, the answer's true mean rises by them."""
    before, after = [], []
    for seed in range(12):
        rng, luck = random.Random(seed), np.random.default_rng(seed)
        truth = [0.78 + 0.002 * float(luck.normal()) for _ in range(14)]
        rows = [
            row(place, drawn(SPECS, rng.random), mean + NOISE * float(luck.normal()))
            for place, mean in enumerate(truth)
        ]
        rows += parked(14, 26)
        first = answer(rows)
        while (number := chosen(rows)) is not None:
            score = truth[number] + NOISE * float(luck.normal())
            rows.append(again(rows[number], len(rows), C, score))
        last = answer(rows)
        assert first is not None
        assert last is not None
        before.append(truth[first.trial.number])
        after.append(truth[last.trial.number])
    assert np.mean(after) > np.mean(before)


# ------------------------------------------------------------------------- evidence, and no more


def test_a_repeat_is_evidence_of_its_trial_and_no_trial() -> None:
    rows = rivals(0.0)
    repeats = [again(rows[0], 40 + place, C, 0.7) for place in range(4)]
    assert lineages.merged([*rows, *repeats]) == lineages.merged(rows)
    assert not any(map(lineages.counts, repeats))
    assert lineages.best_of([*rows, again(rows[1], 40, C, 0.99)]) is rows[0]
    told = answer([*rows, *repeats])
    assert told is not None
    assert told.trial.number != 0


def test_no_pruner_ends_a_repeat() -> None:
    study = optuna.create_study(direction="maximize")
    for one in [*rivals(0.0), again(rivals(0.0)[0], 40, R)]:
        study.add_trial(one)
    running = study.get_trials()[-1]
    running.intermediate_values = dict.fromkeys(range(1, 21), 0.01)

    def no_forecast() -> Any:
        raise AssertionError("a repeat was judged")

    assert not MergedPruner("median", EPOCHS).prune(study, running)
    assert not RestartAwarePruner(EPOCHS, no_forecast, risk=0.5).prune(study, running)


# ------------------------------------------------------------------------------- in real studies


SIX = 6


def played(folder: Path, **options: Any) -> tuple[LeasedStorage, optuna.Study]:
    """A study at its end, with leading trials near one another and much that was saved."""
    storage = store(folder)
    given: dict[str, Any] = {"total": 30, "config": {"epochs": SIX}, "revive": 0}
    study = real_study(storage, **(given | options))
    setup, rng = load_setup(study), random.Random(3)
    for place in range(30):
        study.add_trial(ended(setup, drawn(setup.specs(), rng.random), place))
    return storage, study


def ended(setup: Setup, params: Mapping[str, Any], place: int) -> FrozenTrial:
    """A complete trial at first, then pruned ones."""
    whole = place < 10
    score = 0.7 + 0.001 * (place % 3)
    curve = {epoch: score * epoch / SIX for epoch in range(1, SIX + 1 if whole else 2)}
    return create_trial(
        state=C if whole else P,
        value=score if whole else None,
        params=dict(params),
        distributions={name: distribution(spec) for name, spec in setup.specs().items()},
        intermediate_values=curve,
        user_attrs={"seed": trial_seed(setup.seed, place)},
    )


def test_a_worker_repeats_leading_trials_with_fresh_seeds_at_the_end(tmp_path: Path) -> None:
    storage, study = played(tmp_path)
    work(context_at(tmp_path, storage))
    rows = study.get_trials(deepcopy=False)
    repeats = rows[30:]
    # .25 of 20 times 5 epochs hold four trainings
    assert 1 <= len(repeats) <= 4
    for one in repeats:
        of = rows[one.user_attrs["repeats"]]
        assert (one.state, one.params) == (C, of.params)
        assert one.user_attrs["seed"] == trial_seed(0, one.number) != of.user_attrs["seed"]
        assert sorted(one.intermediate_values) == list(range(1, SIX + 1))
        assert one.user_attrs["gain"] > 0
    assert storage.count_finished(study._study_id) == 30
    assert storage.live_claims(study._study_id) == []
    claimed = storage.events_of([repeats[0]._trial_id])[0]
    assert f"repeat of trial {repeats[0].user_attrs['repeats']}" in line(claimed)
    # the same command has nothing left to do
    work(context_at(tmp_path, storage))
    assert len(study.get_trials(deepcopy=False)) == len(rows)
    answer = study_answer(study)
    assert answer is not None
    assert answer.trial.number < 30
    # its files bring it back, its checkpoints are needed by nobody, and it can be trained again
    (recorded,), _ = recorded_studies(tmp_path / "runs")
    assert recorded.rows[30].user_attrs == repeats[0].user_attrs
    useless = useless_of_study(storage, study, tmp_path / "runs", parked=False, remove=False)
    assert f"30/{claimed.token}/best.pt" in {"/".join(it.path.parts[-3:]) for it in useless}
    text = exported(study, chosen_trial(study, 30), command="export")
    assert f"seed: {repeats[0].user_attrs['seed']}" in text
    said = pruning_sentences(Evidence(results_of(study)))
    assert any(
        f"of leading trials with fresh seeds for {6 * len(repeats)} epochs" in it for it in said
    )


def test_nothing_is_repeated_where_nothing_is_to_be(tmp_path: Path) -> None:
    storage, study = played(tmp_path, spend_saved=0.0)
    work(context_at(tmp_path, storage))
    assert len(study.get_trials(deepcopy=False)) == 30


def test_an_interrupted_repeat_waits_and_ends_as_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    storage, study = played(tmp_path / "whole")
    work(context_at(tmp_path / "whole", storage))
    unbroken = study.get_trials(deepcopy=False)[30:]
    storage, study = played(tmp_path)
    leave = [lambda: drain(study)]

    def then(call: int) -> None:
        if leave:
            leave.pop()()

    monkeypatch.setattr(faces, "fit", cut_at(then=then))
    work(context_at(tmp_path, storage))
    assert [one.state for one in study.get_trials(deepcopy=False)[30:]] == [W]
    monkeypatch.setattr(faces, "fit", fit)
    # one that was begun is finished, whatever is asked for now
    change(storage, study, spend_saved=0.0)
    work(context_at(tmp_path, storage))
    (one,) = study.get_trials(deepcopy=False)[30:]
    assert one.state == C
    assert one.intermediate_values == unbroken[0].intermediate_values
    assert one.value == unbroken[0].value


@pytest.mark.long
def test_two_workers_never_repeat_the_same_trial_at_once(tmp_path: Path) -> None:
    played(tmp_path)
    workers = [start_worker(tmp_path) for _ in range(2)]
    for worker in workers:
        _, err = worker.communicate(timeout=120)
        assert (worker.returncode, err) == (0, "")
    rows = load_study(store(tmp_path), "faces").get_trials(deepcopy=False)[30:]
    assert 1 <= len(rows) <= 4
    assert {one.state for one in rows} == {C}
    for one, other in itertools.pairwise(rows):
        if one.user_attrs["repeats"] == other.user_attrs["repeats"]:
            assert other.datetime_start >= one.datetime_complete


def test_a_study_of_before_repeats_nothing_and_a_new_one_does() -> None:
    stored = setup_of().to_json()
    assert stored["spend_saved"] == 0.25
    del stored["spend_saved"]
    assert Setup.from_json(stored).spend_saved == 0.0


def test_a_raised_total_is_searched_before_anything_is_repeated(tmp_path: Path) -> None:
    storage, study = played(tmp_path)
    set_total(study, 31)
    work(context_at(tmp_path, storage))
    rows = study.get_trials(deepcopy=False)
    assert "repeats" not in rows[30].user_attrs
    assert all("repeats" in one.user_attrs for one in rows[31:])
