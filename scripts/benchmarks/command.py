"""What a search costs a command that it runs. `scripts/bench command`.

Runs one program alone and as a trial of a search, in turn: epochs of a fixed amount of work, about
a second each, reported as it goes. The clock of the program itself tells how long it took from its
start to its end; a look at the store every few milliseconds tells how late a report arrived there.
Beside other programs the ratio of the two says little, the worker's share of a core still does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scripts.benchmarks.common import add_count, add_json, print_table, run, write_figures
from trainer.cli import Parser

# works for so many rounds an epoch, and says when it began, told and ended
PROGRAM = """
import hashlib, json, os, sys, time
config = json.load(open(sys.argv[1]))
begun, told, report = time.time(), [], os.environ.get("SEARCH_REPORT")
for epoch in range(1, config["epochs"] + 1):
    for _ in range(config["rounds"]):
        hashlib.sha256(b"x" * 4096).digest()
    told.append(time.time())
    if report:
        line = json.dumps({"epoch": epoch, "score": epoch / 100 + config["x"] / 10})
        print(line, file=open(report, "a"), flush=True)
ended = time.time()
json.dump({"begun": begun, "told": told, "ended": ended}, open(config["times"], "w"))
"""


def rounds_of(seconds: float) -> int:
    """Rounds of the program's work that take so long, roughly."""
    import hashlib

    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < 0.5:
        hashlib.sha256(b"x" * 4096).digest()
        done += 1
    return round(done * seconds / 0.5)


def bare(folder: Path) -> float:
    """Seconds of the program alone."""
    subprocess.run([sys.executable, "main.py", "base.json"], cwd=folder, check=True)
    times = json.loads((folder / "times.json").read_text())
    return float(times["ended"] - times["begun"])


@dataclass(frozen=True)
class Searched:
    """A program as a trial. seconds: its own; late_s: of each report, until the store had it;
    worker: share of a core that its worker took between the first report and the last.
    """

    seconds: float
    late_s: list[float]
    worker: float


def cpu_s(pid: int) -> float:
    """Seconds of the CPU that a process has had."""
    spent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")


def searched(folder: Path, store: str, number: int) -> Searched:
    """The program once more, as the one trial of a study of its own."""
    from search.management.opening import open_study
    from search.management.options import StudyOptions
    from search.management.planning import planned
    from search.study.shared_state import set_total
    from storage import open_storage

    os.chdir(folder)
    options = StudyOptions(
        study=f"round-{number}",
        config=folder / "base.json",
        command=f'"{sys.executable}" main.py {{config}}',
        ranges=("x=0:1",),
        sampler="random",
    )
    storage = open_storage(store)
    study = open_study(storage, planned(options).setup)
    set_total(study, 1)
    words = ["--storage", store, "--study", study.study_name, "--runs", "runs", "--threads", "1"]
    arrived: dict[int, float] = {}
    spent: list[tuple[float, float]] = []
    with subprocess.Popen([sys.executable, "-m", "search.worker", *words]) as worker:
        while worker.poll() is None:
            for trial in study.get_trials(deepcopy=False):
                for epoch in trial.intermediate_values:
                    if epoch not in arrived:
                        arrived[epoch] = time.time()
                        spent.append((arrived[epoch], cpu_s(worker.pid)))
            time.sleep(0.02)
    times = json.loads((folder / "times.json").read_text())
    late = [arrived[epoch] - told for epoch, told in enumerate(times["told"], 1)]
    # the last one comes with the trial's end
    (first_at, first), (last_at, last) = spent[0], spent[-2]
    return Searched(times["ended"] - times["begun"], late, (last - first) / (last_at - first_at))


def measured(args: argparse.Namespace, words: list[str]) -> int:
    """All rounds; the exit code."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "main.py").write_text(PROGRAM)
        config = {
            "x": 0.5,
            "epochs": args.epochs,
            "rounds": rounds_of(1.0),
            "times": str(folder / "times.json"),
        }
        (folder / "base.json").write_text(json.dumps(config))
        ratios, delays, shares, rows = [], [], [], []
        for number in range(1, args.rounds + 1):
            alone = bare(folder)
            own = searched(folder, f"sqlite:///{folder}/search.db", number)
            ratios.append(own.seconds / alone)
            delays += own.late_s
            shares.append(own.worker)
            seconds = (f"{alone:.2f} s", f"{own.seconds:.2f} s", f"{ratios[-1]:.4f}")
            latest = f"{max(own.late_s):.2f} s"
            rows.append((str(number), *seconds, f"{own.worker:.2%}", latest))
    heads = ("round", "alone", "searched", "ratio", "worker, of a core", "latest report")
    print_table("a command", heads, rows)
    print(
        f"median ratio {median(ratios):.4f}; the worker takes {median(shares):.2%} of a core;"
        f" reports late {median(delays):.2f} s in the median, {max(delays):.2f} s at most"
    )
    figures = {"ratios": ratios, "delays_s": delays, "worker": shares, "epochs": args.epochs}
    write_figures(args, "command", words, figures)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="scripts/bench command", description=__doc__)
    add_count(it, "--rounds", 5, "how often both are run")
    add_count(it, "--epochs", 10, "epochs of a second each")
    add_json(it)
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(parser(), measured, argv, stores=True)


if __name__ == "__main__":
    raise SystemExit(main())
