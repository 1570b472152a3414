from __future__ import annotations

import io
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from search.confirm import main
from search.confirmation.plan import best_of, fresh_seed
from search.confirmation.scores import (
    CONFIGURATION,
    ByImage,
    confirmed_trial,
    images_table,
    plan_state_of,
    seeds_table,
)
from search.execution.worker_loop import work
from search.management.enqueue import put_in_queue
from search.management.opening import open_study
from search.rebuild import main as rebuild
from search.results.reading import results_of
from search.results.statistics.sequential_plan import FIRST, plan_state
from search.results.statistics.verdicts import sentence
from search.study.attributes import REPEAT
from search.study.lookup import is_search, load_setup, named_study
from search.study.repeats import confirmed_scores
from search.study.run_folders import trial_folder
from storage import LeasedStorage, open_storage
from tests.support.data_folders import troubled
from tests.support.shells import one_line
from tests.support.studies import (
    context_at,
    environment,
    play,
    real_study,
    running,
    setup_of,
    store,
    wait_until,
)
from trainer.config import read_config
from trainer.data.dataset import describe

TINY = """\
model: {width: 0.1}
data: {image_size: 16, batch_size: 8, synthetic_images: 40}
training: {epochs: 2, ema: 0.2, warmup_epochs: 0.2, weight_decay: 3.0e-4}
loss: {label_smoothing: 0.05}
runtime: {device: cpu, threads: 1}
"""
NAME = "synthetic-demo-16-dice_weight-confirm"
COMPARE = ("--compare", "dice_weight=0.5,3", "--config", "tiny.yaml")
C, W = TrialState.COMPLETE, TrialState.WAITING


def place(folder: Path) -> Path:
    """A folder to work in, with a config of tiny trainings."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(TINY)
    return folder


def begun(
    folder: Path, *flags: str, columns: int = 80
) -> AbstractContextManager[subprocess.Popen[str]]:
    """`search.confirm` in a folder."""
    return running(folder, "search.confirm", *flags, COLUMNS=str(columns))


def confirmed(folder: Path, *flags: str, columns: int = 80) -> str:
    """What the command says, once it has ended well."""
    with begun(folder, *flags, columns=columns) as process:
        out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    return out


def opened(folder: Path, name: str = NAME) -> optuna.Study:
    url = f"sqlite:///{folder}/runs/search.db"
    return named_study(open_storage(url, create=False), name)


def repeats(study: optuna.Study) -> dict[str, FrozenTrial]:
    """Each repeat by configuration and slot; fails where one is there twice."""
    rows = [t for t in study.get_trials() if t.state != TrialState.FAIL]
    found = {row.user_attrs[REPEAT]: row for row in rows}
    assert len(found) == len(rows)
    return found


def seeds(study: optuna.Study) -> dict[str, int]:
    return {mark: row.user_attrs["seed"] for mark, row in repeats(study).items()}


def reported(folder: Path) -> int:
    """Epochs in the store, before there is a store as well."""
    try:
        with sqlite3.connect(f"file:{folder}/runs/search.db?mode=ro", uri=True) as file:
            query = "SELECT COUNT(*) FROM trial_intermediate_values"
            return int(file.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


# ------------------------------------------------------------------------------- one comparison


@dataclass(frozen=True)
class Compared:
    """A comparison with two seeds each, and what it said."""

    folder: Path
    out: str


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = place(tmp_path_factory.mktemp("compared"))
    return Compared(folder, confirmed(folder, *COMPARE, "--seeds", "2", "--workers", "1"))


def test_a_comparison_trains_every_value_with_its_own_fresh_seeds(compared: Compared) -> None:
    study = opened(compared.folder)
    rows = repeats(study)
    assert {row.state for row in rows.values()} == {C}
    labels = [row.user_attrs[CONFIGURATION] for row in rows.values()]
    assert sorted(labels) == ["dice_weight 0.5"] * 2 + ["dice_weight 3"] * 2
    assert len(set(seeds(study).values())) == 4
    # nobody pruned, nothing drawn, every repeat trained to its end
    assert {len(row.intermediate_values) for row in rows.values()} == {2}


def test_a_comparison_takes_all_else_from_the_config(compared: Compared) -> None:
    study = opened(compared.folder)
    for row in study.get_trials():
        folder = trial_folder(compared.folder / "runs", NAME, row.number)
        (written,) = folder.glob("*/config.yaml")
        config, _ = read_config(written)
        assert config.loss.dice_weight == float(row.user_attrs[CONFIGURATION].split()[1])
        assert (config.loss.label_smoothing, config.training.weight_decay) == (0.05, 3e-4)
        assert (config.loss.dice_schedule, config.model.dropout) == ("constant", 0.15)
        assert config.training.seed == row.user_attrs["seed"]


def test_it_ends_with_a_table_of_80_columns_and_one_sentence(compared: Compared) -> None:
    lines = compared.out.splitlines()
    assert "\x1b" not in compared.out
    start = lines.index(next(line for line in lines if line.startswith("Over fresh seeds")))
    table = lines[start : start + 4]
    assert all(len(line) <= 80 and "…" not in line for line in table)
    assert table[1].split() == ["configuration", "seeds", "mean", "95", "%", "interval", "best"]
    scores = confirmed_scores(opened(compared.folder))
    for line in table[2:]:
        label = " ".join(line.split()[:2])
        count, mean = line.split()[2:4]
        assert count == "2"
        assert float(mean) == pytest.approx(sum(scores[label]) / 2, abs=6e-5)
    now = plan_state_of(opened(compared.folder))
    assert now is not None
    assert (now.look, now.looks, now.scores) == (1, 1, scores)
    said = lines[start + 5]
    assert said == f"{sentence(now.scores, now.pairs)}."
    assert "covers new seeds on this split" in " ".join(lines)


def test_it_scores_every_network_image_by_image_on_val_and_test(compared: Compared) -> None:
    summary = describe("synthetic", 40)
    for row in opened(compared.folder).get_trials():
        folder = trial_folder(compared.folder / "runs", NAME, row.number)
        (file,) = folder.glob("*/images.json")
        found = json.loads(file.read_text())
        assert len(found["val"]["f_score"]) == summary.val
        assert len(found["test"]["f_score_full"]) == summary.test
        mean = sum(found["val"]["f_score"]) / summary.val
        assert mean == pytest.approx(row.value, abs=1e-5)
    rows = re.findall(r"^dice_weight \S+ +(val|test) +(\d+) ", compared.out, re.M)
    assert rows == [("val", str(summary.val)), ("test", str(summary.test))] * 2


def test_the_confirmed_winner_is_the_best_mean_and_no_lucky_seed(compared: Compared) -> None:
    study = opened(compared.folder)
    scores = confirmed_scores(study)
    winner = max(scores, key=lambda label: sum(scores[label]))
    storage = open_storage(f"sqlite:///{compared.folder}/runs/search.db", create=False)
    chosen = confirmed_trial(storage, NAME.removesuffix("-confirm"))
    assert chosen.user_attrs[CONFIGURATION] == winner
    mean = sum(scores[winner]) / len(scores[winner])
    assert abs((chosen.value or 0) - mean) == min(abs(score - mean) for score in scores[winner])


def test_repeats_are_no_search_but_the_report_reads_them(compared: Compared) -> None:
    study = opened(compared.folder)
    assert not is_search(study.study_name, study.user_attrs)
    results = results_of(study, compared.folder / "runs")
    assert len(results.complete()) == 4
    assert {one.config["loss.dice_weight"] for one in results.complete()} == {0.5, 3.0}


def test_a_rebuilt_comparison_is_judged_as_it_was(tmp_path: Path, compared: Compared) -> None:
    shutil.copytree(compared.folder / "runs", tmp_path / "runs")
    url = f"sqlite:///{tmp_path}/new.db"
    assert rebuild(["--runs", f"{tmp_path}/runs", "--storage", url]) == 0
    new = named_study(open_storage(url, create=False), NAME)
    assert plan_state_of(new) == plan_state_of(opened(compared.folder))


# ------------------------------------------------------------------------------- again, and further


@pytest.mark.proof
def test_the_same_command_trains_nothing_again_and_more_seeds_go_on(tmp_path: Path) -> None:
    folder = place(tmp_path)
    first = confirmed(folder, *COMPARE, "--seeds", "2")
    before = repeats(opened(folder))
    again = confirmed(folder, *COMPARE, "--seeds", "2", columns=160)
    assert repeats(opened(folder)) == before
    assert "workers" not in again

    def table(out: str) -> list[str]:
        return re.findall(r"^dice_weight .*?(?= *$)", out, re.M)

    assert [line.split() for line in table(again)] == [line.split() for line in table(first)]
    confirmed(folder, *COMPARE, "--seeds", "3")
    after = repeats(opened(folder))
    assert len(after) == 6
    for mark, row in before.items():
        assert after[mark] == row
    assert len(set(seeds(opened(folder)).values())) == 6


@pytest.mark.proof
def test_a_further_value_joins_and_what_was_trained_stays(
    tmp_path: Path, compared: Compared
) -> None:
    folder = tmp_path / "again"
    shutil.copytree(compared.folder, folder)
    before = repeats(opened(folder))
    flags = ("--compare", "dice_weight=0.5,4", "--config", "tiny.yaml", "--seeds", "2")
    out = confirmed(folder, *flags)
    study = opened(folder)
    after = repeats(study)
    assert after.keys() - before.keys() == {"dice_weight 4 #0", "dice_weight 4 #1"}
    assert all(after[mark] == row for mark, row in before.items())
    # the range holds all three, the table those that were asked for
    assert load_setup(study).space["dice_weight"]["low"] == 0.5
    assert load_setup(study).space["dice_weight"]["high"] == 4
    shown = set(re.findall(r"^(dice_weight \S+) ", out, re.M))
    assert shown == {"dice_weight 0.5", "dice_weight 4"}


def test_a_killed_run_goes_on_with_the_same_seeds_and_trains_nothing_twice(
    tmp_path: Path, compared: Compared
) -> None:
    folder = place(tmp_path)
    flags = (*COMPARE, "--seeds", "3", "--workers", "1")
    with begun(folder, *flags) as process:
        wait_until(lambda: reported(folder) > 2, "some epochs")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(confirmed_scores(opened(folder)).get("dice_weight 3", [])) < 3
    begun_with = seeds(opened(folder))
    confirmed(folder, *flags)
    study = opened(folder)
    assert len(repeats(study)) == 6
    assert {row.state for row in repeats(study).values()} == {C}
    assert seeds(study).items() >= begun_with.items()
    # what an unbroken run of the same comparison trains
    assert seeds(study).items() >= seeds(opened(compared.folder)).items()
    for row in study.get_trials():
        assert sorted(row.intermediate_values) == [1, 2]


@pytest.mark.long
def test_what_is_not_used_of_a_folder_is_said_before_repeats_are_trained(tmp_path: Path) -> None:
    folder = place(tmp_path)
    lines = troubled(folder / "faces")
    out = confirmed(folder, *COMPARE, "--data", "faces", "--seeds", "2", columns=300).splitlines()
    told = [line.removeprefix("note: ") for line in out if line.startswith("note: ")]
    assert [line for line in told if line in lines] == lines
    assert any("; faces, 18 train / 4 val / 0 test" in line for line in out)


def test_ctrl_c_lets_repeats_wait_and_names_the_command_that_goes_on(tmp_path: Path) -> None:
    folder = place(tmp_path)
    with begun(folder, *COMPARE, "--seeds", "3", "--workers", "1") as process:
        wait_until(lambda: reported(folder) > 2, "some epochs")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    states = [row.state for row in opened(folder).get_trials()]
    assert W in states
    assert TrialState.RUNNING not in states
    assert re.search(r"to go on: .*search\.confirm --compare dice_weight=0\.5,3 ", out)


@pytest.mark.proof
def test_a_budget_pays_for_whole_looks_only(tmp_path: Path) -> None:
    folder = place(tmp_path)
    # two seeds of two values take 8 epochs; the third of each would take 4 more
    out = confirmed(folder, *COMPARE, "--seeds", "9", "--budget", "11")
    assert len(repeats(opened(folder))) == 4
    trained = sum(len(row.intermediate_values) for row in opened(folder).get_trials())
    assert trained == 8
    assert "--budget 11" in out


# --------------------------------------------------------------------------- the best of a search


def searched(folder: Path, trials: int = 4) -> LeasedStorage:
    """A search of tiny trainings whose curves are made up; what repeats it trains really."""
    storage = store(folder)
    options: dict[str, Any] = {"config": {"width": 0.1, "epochs": 2}, "pruner": "none"}
    study = real_study(storage, total=trials, **options)
    play(study, storage, load_setup(study), trials)
    return storage


@pytest.mark.long
def test_the_best_of_a_search_are_repeated_with_seeds_that_no_trial_had(tmp_path: Path) -> None:
    storage = searched(tmp_path)
    study = named_study(storage, "faces")
    before = study.get_trials()
    flags = ("--storage", f"sqlite:///{tmp_path}/search.db", "--runs", str(tmp_path / "runs"))
    out = confirmed(tmp_path, *flags, "--top", "2", "--seeds", "2", "--workers", "1")
    assert study.get_trials() == before
    best = sorted(before, key=lambda trial: -(trial.value or 0))[:2]
    own = repeats(named_study(storage, "faces-confirm"))
    assert {row.user_attrs[CONFIGURATION] for row in own.values()} == {
        f"trial {trial.number}" for trial in best
    }
    for row in own.values():
        number = int(row.user_attrs[CONFIGURATION].split()[1])
        assert row.params == before[number].params
        assert row.state == C
    had = {trial.user_attrs["seed"] for trial in before}
    now = {row.user_attrs["seed"] for row in own.values()}
    assert len(now) == 4
    assert had & now == set()
    for trial in best:
        # the score at the search stands beside the mean of the fresh seeds
        assert re.search(rf"^trial {trial.number} +2 .*{trial.value:.4f} *$", out, re.M)


def test_copies_and_other_spellings_of_a_configuration_are_repeated_once(tmp_path: Path) -> None:
    storage = searched(tmp_path, 0)
    study = named_study(storage, "faces")
    base = {**load_setup(study).defaults, "dice_schedule": "constant"}
    for dice, ramp in ((1.0, 0.0), (1.0, 0.3), (2.0, 0.0)):
        # a ramp does nothing under a constant schedule
        study.enqueue_trial({**base, "dice_weight": dice, "dice_ramp": ramp})
    play(study, storage, load_setup(study), 3)
    task = best_of(storage, "faces", 5, root=None, preset=None)
    assert [one.params["dice_weight"] for one in task.configurations] == [2.0, 1.0]
    assert task.labels == ["trial 2", "trial 0"]


def test_a_seed_that_was_used_gives_way_to_the_next_always_the_same() -> None:
    first = fresh_seed(0, "trial 7", 2, set())
    other = fresh_seed(0, "trial 7", 2, {first})
    assert first != other
    assert fresh_seed(0, "trial 7", 2, {first}) == other
    assert fresh_seed(0, "trial 7", 2, {first, other}) not in (first, other)
    assert len({fresh_seed(0, label, slot, set()) for label in "ab" for slot in range(50)}) == 100


# ------------------------------------------------------------------------------- the looks

LOW = [0.500, 0.504, 0.498, 0.502, 0.501, 0.499, 0.503, 0.500, 0.502, 0.498]
HIGH = [score + 0.1 for score in LOW]
ALIKE = [0.502, 0.499, 0.503, 0.498, 0.500, 0.504, 0.501, 0.499, 0.500, 0.503]


def test_what_is_told_apart_gets_no_more_seeds() -> None:
    now = plan_state({"low": LOW, "high": HIGH}, cap=10, first=FIRST, margin=1)
    assert now.wanted == {}
    assert now.pairs[0].verdict == "second"
    assert len(now.scores["low"]) == len(now.scores["high"]) < 10


def test_only_those_that_cannot_be_told_apart_get_more() -> None:
    scores = {"low": LOW, "high": HIGH, "like high": [score + 0.1 for score in ALIKE]}
    now = plan_state(scores, cap=10, first=FIRST, margin=0)
    used = {label: len(own) for label, own in now.scores.items()}
    assert used["high"] == used["like high"] == 10
    assert used["low"] < 10
    verdicts = {(pair.first, pair.second): pair.verdict for pair in now.pairs}
    assert verdicts["high", "like high"] is None
    assert verdicts["low", "high"] == "second"


def test_an_interrupted_run_makes_the_same_looks_again() -> None:
    scores = {"a": LOW, "b": ALIKE}
    whole = plan_state(scores, cap=8, first=FIRST, margin=0)
    held: dict[str, list[float | None]] = {label: [] for label in scores}
    for _ in range(40):
        now = plan_state(held, cap=8, first=FIRST, margin=0)
        if not now.wanted:
            break
        # one training ends, then the run is killed
        label = next(it for it, count in now.wanted.items() if len(held[it]) < count)
        held[label].append(scores[label][len(held[label])])
    assert now == whole
    assert {label: len(own) for label, own in held.items()} == {"a": 8, "b": 8}


def test_trainings_that_come_to_nothing_end_at_the_cap_too() -> None:
    lost: list[float | None] = [None] * 6
    now = plan_state({"lost": lost, "fine": LOW[:6]}, cap=6, first=FIRST, margin=1)
    assert now.wanted == {}
    assert (len(now.scores["lost"]), now.pairs) == (0, [])


# ------------------------------------------------------------------------------- what it looks like


@pytest.mark.parametrize("width", [80, 160])
def test_tables_fit_a_terminal_and_a_log_without_cutting_anything(width: int) -> None:
    scores = {"trial 1234": LOW, "dice_schedule constant": HIGH, "<script> [red]": []}
    searched_at: dict[str, float | None] = {"trial 1234": 0.5123, "dice_schedule constant": 0.6}
    by_image = {
        label: {part: [ByImage(LOW, HIGH), ByImage(HIGH, LOW)] for part in ("val", "test")}
        for label in scores
    }
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, color_system=None)
    console.print(seeds_table(scores, searched_at, 3))
    console.print(images_table(list(scores), by_image))
    shown = buffer.getvalue()
    assert all(len(line) <= width for line in shown.splitlines())
    assert "…" not in shown
    for text in ("trial 1234", "dice_schedule constant", "<script> [red]", "0.5123", "0.6000"):
        assert text in shown


# ------------------------------------------------------------------------------- mistakes


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, a finished search, an empty one, and one whose faces changed."""
    folder = place(tmp_path_factory.mktemp("prepared"))
    storage = searched(folder, 2)
    real_study(storage, "empty", total=1)
    setup = setup_of("other")
    play(open_study(storage, setup), storage, setup, 1)
    return folder


@pytest.fixture
def room(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder."""
    monkeypatch.chdir(prepared)
    return prepared


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--top", "2", "--compare", "dice_weight=1,2"], ["--compare", "--top"]),
        (["--top", "0"], ["--top", "from 1 up"]),
        (["--seeds", "1"], ["--seeds", "from 2 up"]),
        (["--budget", "0"], ["--budget"]),
        (["--margin", "-1"], ["--margin", "from 0 up"]),
        (["--config", "tiny.yaml"], ["--config", "--compare"]),
        (["--workers", "none", *COMPARE], ["--workers", "none"]),
        (["--compare", "dice_weight"], ["dice_weight", "KEY=VALUE"]),
        (["--compare", "dice_wieght=1,2"], ["dice_wieght", "dice_weight"]),
        (["--compare", "dice_weight=1"], ["dice_weight=1", "one value"]),
        (["--compare", "dice_weight=1,2,1.0"], ["stands there twice"]),
        (["--compare", "dice_weight=1,,2"], ["dice_weight"]),
        (["--compare", "dice_weight=1,nan"], ["nan", "finite"]),
        (["--compare", "dice_weight=1,high"], ["dice_weight", "high"]),
        (["--compare", "dice_weight=-1,2"], ["dice_weight", "-1"]),
        (["--compare", "dropout=0.1,1.5"], ["dropout", "1.5"]),
        (["--compare", "dice_schedule=constant,stairs"], ["dice_schedule", "stairs"]),
        (["--compare", "dice_schedule=constant,step"], ["dice_ramp is 0"]),
        (["--compare", "dice_ramp=0.2,0.4"], ["dice_ramp", "constant"]),
        (["--compare", "T_mult=1,1.5"], ["T_mult", "whole numbers"]),
        (["--compare", "T_0=1,99"], ["T_0", "99"]),
        (["--compare", "epochs=1,2"], ["epochs", "same in every trial"]),
        (["--compare", "device=cpu,cuda"], ["device"]),
        (["--compare", "width=0.1,3"], ["parameters", "1,821,085"]),
        (["--compare", "dice_weight=1,2", "--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--compare", "dice_weight=1,2", "--data", "nowhere"], ["nowhere"]),
        (["--compare", "dice_weight=1,2", "--preset", "huge"], ["huge"]),
        ([*COMPARE, "--budget", "7"], ["--budget 7", "take 8"]),
        ([*COMPARE, "--runs", "tiny.yaml"], ["--runs tiny.yaml", "folder"]),
        (["--study", "facess"], ["facess", "faces"]),
        (["--study", "empty"], ["empty", "no complete trial"]),
        (["--study", "faces", "--preset", "full"], ["--preset full", "faces"]),
        (["--study", "faces", "--data", "nowhere"], ["nowhere"]),
        (["--study", "other"], ["other", "fingerprint"]),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_writes_nothing(
    room: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: list[str]
) -> None:
    with sqlite3.connect(room / "search.db") as file:
        before = "\n".join(file.iterdump())
    own = ["--storage", f"sqlite:///{room}/search.db"]
    line = one_line(main, capsys, *flags, *own)
    for text in says:
        assert text in line
    with sqlite3.connect(room / "search.db") as file:
        assert "\n".join(file.iterdump()) == before
    assert not list(room.glob("runs/*"))


def test_a_comparison_makes_no_store_before_it_is_sound(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = one_line(main, capsys, "--compare", "dropout=0.1,1.5", "--config", "tiny.yaml")
    assert "dropout" in line
    assert not (room / "runs").exists()


def test_repeats_of_something_else_are_not_gone_on_with(
    compared: Compared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(compared.folder)
    Path("other.yaml").write_text(TINY.replace("0.05", "0.1"))
    flags = ["--storage", f"sqlite:///{compared.folder}/runs/search.db"]
    changed = ["--compare", "dice_weight=0.5,3", "--config", "other.yaml"]
    line = one_line(main, capsys, *changed, *flags)
    assert "label_smoothing 0.05, this run has 0.1" in line
    assert "--study NAME" in line


def test_a_repeat_that_comes_to_nothing_is_not_replaced_by_a_draw(tmp_path: Path) -> None:
    storage = store(tmp_path)
    study = real_study(storage, "faces-confirm", total=3, config={"epochs": 1}, pruner="none")
    whole = load_setup(study).defaults
    put_in_queue(study, REPEAT, [(whole, {REPEAT: f"a #{slot}"}) for slot in range(2)])
    storage.set_trial_state_values(study.get_trials()[1]._trial_id, TrialState.FAIL)
    assert work(context_at(tmp_path, storage, "faces-confirm")) == 0
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL]


@pytest.mark.parametrize("flag", ["--study", "--from"])
def test_a_search_does_not_go_on_with_repeats(tmp_path: Path, flag: str) -> None:
    storage = store(tmp_path)
    real_study(storage, "faces-confirm", total=3)
    place(tmp_path)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "search.run", flag, "faces-confirm", "--config", "tiny.yaml"),
            *("--storage", f"sqlite:///{tmp_path}/search.db"),
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "names in -confirm are kept for repeats" in done.stderr
