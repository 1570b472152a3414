"""The store under load: `scripts/bench store`.

Writers as fast as they can, each a process that asks, reports and tells as a worker does, with
claims and beats; meanwhile one process reads all trials as a dashboard does and another opens the
store for the best trial as an export does. Every value is then looked up. Beside it, in the same
run, a rival: the same writers and readers on Optuna's RDBStorage as it comes, whose errors are
counted.

A call ends in time; the same call again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.common import (
    ROOT,
    add_count,
    print_table,
    run,
    send_line,
    start_together,
    tell,
    write_json,
)
from scripts.reliability.service import (
    about,
    add_pieces,
    earlier_work,
    new_work,
    store_at,
)
from trainer.cli import Parser
from trainer.errors import UserError

if TYPE_CHECKING:
    import optuna

OURS, RIVAL = "ours", "rival"
ENQUEUED = 60
# how often a dashboard polls and a person exports
DASHBOARD_S, EXPORT_S = 2.0, 10.0
# time that the last trials, the rival and the counting may take
_RESERVE_S = 30.0
# a rival's writer that meets nothing but errors leaves
_MOST_ERRORS = 1000


def value_of(number: int, step: int) -> float:
    """What trial `number` reports at `step`: every one another value."""
    return number + step / 1000


# ------------------------------------------------------------------------- in processes of its own


def write(args: argparse.Namespace) -> dict[str, Any]:
    """A writer's whole life: trials until the budget is used up or the time is over."""
    study = _study(args)
    if args.kind == OURS:
        # torch comes with it: a worker has it long before its first trial
        importlib.import_module("search.execution.trial_runner")
    print("ready", flush=True)
    sys.stdin.readline()
    began, until = time.monotonic(), time.monotonic() + args.seconds
    result: dict[str, Any] = {"numbers": [], "reports": 0, "report_s": 0.0, "errors": Counter()}
    turn = _our_trial if args.kind == OURS else _rival_trial
    while time.monotonic() < until and turn(args, study, result):
        if sum(result["errors"].values()) >= _MOST_ERRORS:
            break
    return {**result, "seconds": time.monotonic() - began}


def _our_trial(args: argparse.Namespace, study: optuna.Study, result: dict[str, Any]) -> bool:
    """One trial as search.execution.trial_runner runs it; False where no place is left."""
    from search.execution.trial_runner import take_up
    from search.study.names import BEAT_S, GRACE_S
    from storage import Heartbeat, LeasedStorage
    from storage.optuna_internals import id_of_study

    storage = args.storage
    assert isinstance(storage, LeasedStorage)
    try:
        token = storage.take_slot(id_of_study(study), args.total, f"writer:{os.getpid()}")
        if token is None:
            return False
        with Heartbeat(storage, token, BEAT_S, GRACE_S):
            trial_id = storage.pop_waiting(id_of_study(study), token)
            if trial_id is None:
                trial_id = storage.new_trial(id_of_study(study), token)
            trial = take_up(study, trial_id)
            storage.record(trial_id, "started")
            result["numbers"].append(trial.number)
            trial.suggest_float("x", 0, 1)
            for step in range(1, args.reports + 1):
                called = time.perf_counter()
                trial.report(value_of(trial.number, step), step)
                result["report_s"] += time.perf_counter() - called
                result["reports"] += 1
            study.tell(trial, value_of(trial.number, 0))
        storage.release(token)
    except Exception as error:
        result["errors"][_kind(error)] += 1
    return True


def _rival_trial(args: argparse.Namespace, study: optuna.Study, result: dict[str, Any]) -> bool:
    """One trial with Optuna's own means; what fails is counted and left out."""

    def tried(deed: Any) -> Any:
        try:
            return deed()
        except Exception as error:
            result["errors"][_kind(error)] += 1
            return None

    if len(result["numbers"]) >= args.trials:
        return False
    trial = tried(study.ask)
    if trial is None:
        return True
    result["numbers"].append(trial.number)
    tried(lambda: trial.suggest_float("x", 0, 1))
    for step in range(1, args.reports + 1):
        before, called = sum(result["errors"].values()), time.perf_counter()
        tried(lambda step=step: trial.report(value_of(trial.number, step), step))
        result["report_s"] += time.perf_counter() - called
        result["reports"] += sum(result["errors"].values()) == before
    tried(lambda: study.tell(trial, value_of(trial.number, 0)))
    return True


def _kind(error: Exception) -> str:
    # the driver's words stand in the cause; numbers would make every error one of its own
    text = re.sub(r"\d+", "N", str(error.__cause__ or error))
    known = "database is locked"
    return known if known in text else f"{type(error).__name__}: {text[:150]}"


def read(args: argparse.Namespace) -> dict[str, Any]:
    """A dashboard, or somebody who exports, until standard input ends."""
    from storage.optuna_internals import id_of_study, storage_of

    study = _study(args)
    print("ready", flush=True)
    sys.stdin.readline()
    result: dict[str, Any] = {"reads": 0, "slowest_s": 0.0, "errors": Counter()}
    pause_s = EXPORT_S if args.role == "export" else DASHBOARD_S
    over = False
    while not over:
        began = time.monotonic()
        try:
            if args.role == "export":
                # another process each time
                study = _study(args)
                _ = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
            else:
                storage_of(study).get_all_trials(id_of_study(study), deepcopy=False)
            result["reads"] += 1
        except Exception as error:
            result["errors"][_kind(error)] += 1
        result["slowest_s"] = max(result["slowest_s"], time.monotonic() - began)
        over = bool(select.select([sys.stdin], [], [], pause_s)[0])
    return result


def _study(args: argparse.Namespace) -> optuna.Study:
    import optuna

    from storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # a rival's writers report into each other's trials, which Optuna warns of each time
    warnings.simplefilter("ignore")
    if args.kind == OURS:
        args.storage = open_storage(args.url, create=False, read_only=args.role != "write")
    else:
        args.storage = optuna.storages.RDBStorage(args.url)
    return optuna.load_study(
        study_name=args.study,
        storage=args.storage,
        sampler=optuna.samplers.RandomSampler(seed=os.getpid()),
    )


# ------------------------------------------------------------------------------------------ a round


def made(url: str, kind: str) -> str:
    """A new study with its enqueued trials in a store that may not exist yet; its name."""
    import optuna

    from storage import open_storage

    storage = open_storage(url) if kind == OURS else optuna.storages.RDBStorage(url)
    name = f"{kind}-{os.getpid()}-{time.time_ns()}"
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    for index in range(ENQUEUED):
        study.enqueue_trial({"x": (index + 0.5) / ENQUEUED}, user_attrs={"enqueued": index})
    return name


def load(
    url: str, kind: str, study: str, args: argparse.Namespace, *, trials: int, seconds: float
) -> dict[str, Any]:
    """Writers and readers at work; what they did. trials: of each writer."""
    told = {
        "url": url,
        "kind": kind,
        "study": study,
        "seconds": seconds,
        "trials": trials,
        "reports": args.reports,
        "total": trials * args.writers,
    }
    command = [sys.executable, "-m", "scripts.benchmarks.store", "child"]
    roles = ["write"] * args.writers + ["dashboard", "export"]
    # threads of linear algebra would only be in each other's way
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        children = []
        for role in roles:
            child = subprocess.Popen(
                [*command, json.dumps({**told, "role": role})],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            children.append(stack.enter_context(child))
            stack.callback(child.kill)
        start_together(children, f"a process of the {kind}")
        began = time.monotonic()
        writers = [_result(child, kind) for child in children[: args.writers]]
        took_s = time.monotonic() - began
        for child in children[args.writers :]:
            send_line(child)
        readers = [_result(child, kind) for child in children[args.writers :]]
    return {
        "seconds": took_s,
        "reports": sum(result["reports"] for result in writers),
        "report_s": sum(result["report_s"] for result in writers),
        "numbers": [number for result in writers for number in result["numbers"]],
        "errors": _summed(result["errors"] for result in (*writers, *readers)),
        "reads": sum(result["reads"] for result in readers),
        "slowest_read_s": max(result["slowest_s"] for result in readers),
    }


def _result(child: subprocess.Popen[str], kind: str) -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise UserError(f"a process of the {kind} ended without a result; see above")
    return dict(json.loads(line))


def _summed(parts: Any) -> dict[str, int]:
    whole: Counter[str] = Counter()
    for part in parts:
        whole.update(part)
    return dict(whole)


def values_in(url: str, study: str) -> list[tuple[int, int, float]]:
    """(number, step, value) of every reported value, read without Optuna."""
    import sqlalchemy as sa

    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    query = sa.text(
        "SELECT t.number, v.step, v.intermediate_value FROM trial_intermediate_values v"
        " JOIN trials t ON t.trial_id = v.trial_id JOIN studies s ON s.study_id = t.study_id"
        " WHERE s.study_name = :study"
    )
    try:
        with engine.connect() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query, {"study": study})]
    finally:
        engine.dispose()


def checked(
    values: Sequence[tuple[int, int, float]],
    numbers: Sequence[int],
    *,
    trials: int,
    reports: int,
) -> dict[str, int]:
    """How many values are missing, other than reported, or there twice, and trials run twice.

    numbers: of the trials that the writers ran, one entry for each time. The enqueued trials are
    the first of the study.
    """
    times = Counter((number, step) for number, step, _ in values)
    expected = {(number, step) for number in range(trials) for step in range(1, reports + 1)}
    runs = Counter(numbers)
    twice = [number for number, many in runs.items() if many > 1]
    return {
        "values": len(values),
        "missing": len(expected - times.keys()),
        "wrong": sum(value != value_of(number, step) for number, step, value in values)
        + len(times.keys() - expected),
        "doubled_values": sum(many - 1 for many in times.values()),
        "run_twice": len(twice),
        "enqueued_run_twice": sum(number < ENQUEUED for number in twice),
        "enqueued_not_run": sum(runs[number] == 0 for number in range(min(ENQUEUED, trials))),
    }


# -------------------------------------------------------------------------------------------- calls


def one_store(args: argparse.Namespace, store: str, kept: dict[str, Any], until: float) -> bool:
    """Load one kind of store; False if the time was over before the end."""
    if "work" not in kept:
        kept["work"] = new_work("bench-store-")
    folder = earlier_work(kept["work"], args.json)
    with store_at(store, folder) as url:
        if "rival" not in kept:
            kept["rival"] = _rival(args, store, url, folder)
        if "study" not in kept:
            kept["study"] = made(url, OURS)
        seconds = until - time.monotonic() - _RESERVE_S
        parts = kept.setdefault("parts", [])
        if seconds > 0:
            tell(f"{store}: {args.writers} writers, at most {seconds:.0f} s")
            parts.append(load(url, OURS, kept["study"], args, trials=args.trials, seconds=seconds))
        trials = args.writers * args.trials
        numbers = [number for part in parts for number in part["numbers"]]
        # errors leave trials behind that nobody runs any more
        whole = len(numbers) >= trials or any(part["errors"] for part in parts)
        if not parts or not whole:
            return False
        kept["checked"] = checked(
            values_in(url, kept["study"]), numbers, trials=trials, reports=args.reports
        )
    kept["done"] = True
    shutil.rmtree(folder)
    return True


def _rival(args: argparse.Namespace, store: str, url: str, folder: Path) -> dict[str, Any]:
    # a file of its own; a server holds both studies, whose tables are the same
    where = f"sqlite:///{folder}/rival.db" if store == "sqlite" else url
    where = where.replace("postgresql://", "postgresql+psycopg://", 1)
    study = made(where, RIVAL)
    tell(f"{store}: the rival, {args.writers} writers with {args.rival_trials} trials each")
    result = load(
        where, RIVAL, study, args, trials=args.rival_trials, seconds=args.minutes * 60 - _RESERVE_S
    )
    trials = args.writers * args.rival_trials
    found = checked(values_in(where, study), result["numbers"], trials=trials, reports=args.reports)
    return {**result, **found}


def figures(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The result for one kind of store."""
    ours = _side(kept["parts"]) | kept["checked"]
    rival = _side([kept["rival"]]) | {name: kept["rival"][name] for name in kept["checked"]}
    ratio = round(ours["reports_per_s"] / rival["reports_per_s"], 2)
    return {"ours": ours, "rival": rival, "ratio": ratio}


def _side(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    reports, seconds = (sum(part[name] for part in parts) for name in ("reports", "seconds"))
    return {
        "reports": reports,
        "seconds": round(seconds, 1),
        # asking, telling and claiming trials in between included
        "reports_per_s": round(reports / seconds, 1),
        "report_ms": round(1000 * sum(part["report_s"] for part in parts) / reports, 2),
        "errors": _summed(part["errors"] for part in parts),
        "reads": sum(part["reads"] for part in parts),
        "slowest_read_s": round(max(part["slowest_read_s"] for part in parts), 2),
    }


def sound(result: Mapping[str, Any]) -> bool:
    """Whether ours lost nothing and met no error."""
    ours = result["ours"]
    bad = ("missing", "wrong", "doubled_values", "run_twice", "enqueued_not_run")
    return not ours["errors"] and not any(ours[name] for name in bad)


def show(store: str, result: Mapping[str, Any]) -> None:
    """The result for one kind of store, for a person."""
    sides = [result["ours"], result["rival"]]
    names = {
        "reports_per_s": "reports per second",
        "report_ms": "a report, mean ms",
        "reports": "reports",
        "seconds": "seconds",
        "values": "values in the store",
        "missing": "values missing",
        "wrong": "values changed",
        "doubled_values": "values doubled",
        "run_twice": "trials run twice",
        "enqueued_run_twice": f"of {ENQUEUED} enqueued ones",
        "enqueued_not_run": "enqueued ones not run",
        "reads": "reads of all trials meanwhile",
        "slowest_read_s": "the slowest of them, s",
    }
    errors = [
        "; ".join(f"{many} x {kind}" for kind, many in side["errors"].items()) or "0"
        for side in sides
    ]
    rows = [[words, *(str(side[name]) for side in sides)] for name, words in names.items()]
    title = f"{store}: ours is {result['ratio']:.2f} x"
    columns = ("", "ours", "RDBStorage as it comes")
    print_table(title, columns, [*rows, ["errors", *errors]])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="scripts/bench store", description=__doc__)
    it.add_argument(
        "--store",
        choices=("sqlite", "postgresql", "both"),
        default="both",
        help="(default: both, one after the other)",
    )
    add_count(it, "--writers", 16)
    add_count(it, "--trials", 200, "for each writer")
    add_count(it, "--reports", 50, "in each trial")
    rival = "for each writer of the rival, whose rate alone counts"
    add_count(it, "--rival-trials", 10, rival)
    add_pieces(it, "store.json")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 1 where ours lost a value or met an error."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["child"]:  # what this program starts in fresh processes
        child = argparse.Namespace(**json.loads(words[1]))
        print(json.dumps((write if child.role == "write" else read)(child)), flush=True)
        return 0
    return run(parser(), _main, words, stores=True)


def _main(args: argparse.Namespace, words: Sequence[str]) -> int:
    until = time.monotonic() + args.minutes * 60
    stores = ("sqlite", "postgresql") if args.store == "both" else (args.store,)
    settings = {name: getattr(args, name) for name in ("writers", "trials", "reports")}
    kept = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else {}
    if kept.setdefault("settings", settings) != settings:
        raise UserError(
            f"--json {args.json}: holds another load ({kept['settings']}); give the same"
            " arguments, or another file"
        )
    facts = about("scripts/bench store", words)
    code = 0
    for store in stores:
        part = kept.setdefault("stores", {}).setdefault(store, {})
        if not part.get("done"):
            try:
                whole = one_store(args, store, part, until)
            finally:
                write_json(args.json, kept)
            if not whole:
                tell(f"{args.json}: to be continued; give the same command again")
                return code
            part["figures"] = figures(part) | facts
            write_json(args.json, kept)
        show(store, part["figures"])
        code = max(code, 0 if sound(part["figures"]) else 1)
    return code


if __name__ == "__main__":
    sys.exit(main())
