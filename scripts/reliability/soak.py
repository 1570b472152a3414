"""Whether a long search grows: memory, open files and threads of every process. `scripts/soak`.

One search of tiny trainings, with trials in the hundreds, so that what grows with their number
shows. A line is fitted through each process's own memory (USS) after a warm-up.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.benchmarks.common import (
    ROOT,
    add_count,
    positive,
    print_table,
    run,
    tell,
    write_json,
)
from scripts.reliability.service import (
    about,
    end_all,
    last_line,
    search,
    tiny,
    workers,
)
from trainer.cli import Parser
from trainer.errors import UserError

EPOCHS, IMAGES = 2, 40
STUDY = "soak"
SAMPLE_S, TABLE_S = 10.0, 300.0
# imports, first trials, caches: a process takes so long to have what it needs
WARM_UP_S = 180.0
# more than so much of its size in the time after the warm-up is growth
FLAT = 0.05
# never reached: the time ends the search
TRIALS = 1_000_000
_MB = 1e6


@dataclass
class Track:
    """What was seen of one process; at_s counts from the start of the search."""

    name: str
    pid: int
    at_s: list[float] = field(default_factory=list)
    uss_mb: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def add(self, at_s: float, process: Any) -> None:
        """One sample. Raises psutil.Error where the process is gone."""
        with process.oneshot():
            memory, files, threads = (
                process.memory_full_info(),
                process.num_fds(),
                process.num_threads(),
            )
        self.at_s.append(round(at_s, 1))
        self.uss_mb.append(round(memory.uss / _MB, 2))
        self.rss_mb.append(round(memory.rss / _MB, 2))
        self.files.append(files)
        self.threads.append(threads)


def verdict(
    track: Track,
    warm_up_s: float,
    trials: Sequence[tuple[float, int]] = ((0.0, 0),),
    mb_per_trial: float = 0.0,
) -> dict[str, Any] | None:
    """Slope and size after the warm-up; None with fewer than three samples there.

    trials: (at_s, finished so far). mb_per_trial: what a finished trial takes in every process
    that has the study, here as with plain Optuna. flat: without that, the fitted line rises by
    less than `FLAT` of its beginning over what was measured, and the number of open files and
    threads at the end is not above what it was in the first half.
    """
    import numpy as np

    late = [index for index, at_s in enumerate(track.at_s) if at_s >= warm_up_s]
    if len(late) < 3:
        return None
    seconds = np.array([track.at_s[index] for index in late])
    uss = np.array([track.uss_mb[index] for index in late])
    slope, start = np.polyfit(seconds - seconds[0], uss, 1)
    study = mb_per_trial * np.interp(seconds, *np.array(trials, dtype=float).T)
    own, _ = np.polyfit(seconds - seconds[0], uss - study, 1)
    growth = own * (seconds[-1] - seconds[0])
    half = len(late) // 2

    def more(counts: Sequence[int]) -> bool:
        values = [counts[index] for index in late]
        return min(values[half:]) > max(values[:half])

    flat = abs(growth) < FLAT * start and not more(track.files) and not more(track.threads)
    return {
        "name": track.name,
        "mb_per_hour": round(float(slope) * 3600, 2),
        "mb_per_hour_without_the_study": round(float(own) * 3600, 2),
        "uss_mb_after_warm_up": round(float(uss[0]), 1),
        "uss_mb_at_5_minutes": _at(track, 300.0),
        "uss_mb_at_the_end": round(float(uss[-1]), 1),
        "rss_mb_at_the_end": track.rss_mb[-1],
        "files_at_the_end": track.files[-1],
        "threads_at_the_end": track.threads[-1],
        "flat": bool(flat),
    }


def _at(track: Track, at_s: float) -> float | None:
    later = [mb for moment, mb in zip(track.at_s, track.uss_mb, strict=True) if moment >= at_s]
    return later[0] if later else None


def rates(trials: Sequence[tuple[float, int]], window_s: float = TABLE_S) -> tuple[float, float]:
    """Finished trials a minute in the first window after the first trial, and in the last one.

    trials: (at_s, finished so far), in order.
    """
    at_work = [pair for pair in trials if pair[1] > 0]
    if len(at_work) < 2:
        return 0.0, 0.0
    first = [pair for pair in at_work if pair[0] <= at_work[0][0] + window_s]
    last = [pair for pair in at_work if pair[0] >= at_work[-1][0] - window_s]
    return _rate(first), _rate(last)


def _rate(pairs: Sequence[tuple[float, int]]) -> float:
    seconds = pairs[-1][0] - pairs[0][0]
    return 60 * (pairs[-1][1] - pairs[0][1]) / seconds if seconds else 0.0


# ------------------------------------------------------------------------------------ the search


@dataclass
class Soak:
    """What was seen so far. lost: processes that ended before the search did. mb_per_trial: of
    the study, in a process that has read it.
    """

    tracks: dict[int, Track] = field(default_factory=dict)
    trials: list[tuple[float, int]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    mb_per_trial: float = 0.0

    def sample(self, at_s: float, supervisor: subprocess.Popen[bytes], finished: int) -> None:
        """Look at every process once."""
        import psutil

        self.trials.append((round(at_s, 1), finished))
        with suppress(psutil.Error):
            seen = {supervisor.pid: psutil.Process(supervisor.pid)}
            seen |= {worker.pid: worker for worker in workers(supervisor.pid)}
            for pid, process in seen.items():
                if pid not in self.tracks:
                    place = len(self.tracks)
                    name = f"worker {place}" if place else "supervisor"
                    self.tracks[pid] = Track(name, pid)
                with suppress(psutil.Error):
                    self.tracks[pid].add(at_s, process)
            for pid, track in self.tracks.items():
                if pid not in seen and track.name not in self.lost:
                    self.lost.append(track.name)


def watch(args: argparse.Namespace, folder: Path, soak: Soak, facts: dict[str, Any]) -> None:
    """Search for `--minutes` and look on. Raises UserError if the search ends by itself."""
    from storage import LeasedStorage, open_storage

    tiny(folder, EPOCHS, IMAGES)
    url = f"sqlite:///{folder}/search.db"
    flags = ["--trials", str(TRIALS), "--workers", str(args.workers), "--study", STUDY]
    flags += ["--storage", url, "--device", "cpu", "--timeout", str(args.minutes * 60 + 600)]
    # a search of a million trials would plan a quarter of them
    supervisor = search(folder, *flags, "--no-priors")
    began = time.monotonic()
    storage: LeasedStorage | None = None
    shown_s = 0.0
    try:
        while (at_s := time.monotonic() - began) < args.minutes * 60:
            if supervisor.poll() is not None:
                said = last_line(folder / "search.log")
                raise UserError(f"search.run ended with code {supervisor.returncode}: {said}")
            finished = 0
            if storage is None and (folder / "runs" / STUDY / "workers").is_dir():
                storage = open_storage(url, create=False, read_only=True)
            if storage is not None:
                finished = storage.count_finished(storage.get_study_id_from_name(STUDY))
            soak.sample(at_s, supervisor, finished)
            write_json(args.json, result(soak) | facts)
            if at_s - shown_s >= TABLE_S:
                shown_s = at_s
                show_now(soak)
            time.sleep(max(0.0, began + at_s + SAMPLE_S - time.monotonic()))
        supervisor.send_signal(signal.SIGINT)
        supervisor.wait(120)
        soak.mb_per_trial = size_of_a_trial(url)
    finally:
        end_all(folder)
        supervisor.wait()
        if storage is not None:
            storage.close()


def size_of_a_trial(url: str) -> float:
    """MB that a finished trial of the study takes in a process that has read it."""
    import tracemalloc

    import optuna

    from storage import open_storage

    storage = open_storage(url, create=False, read_only=True)
    study = optuna.load_study(study_name=STUDY, storage=storage)
    tracemalloc.start()
    trials = study.get_trials(deepcopy=False)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    storage.close()
    return size / _MB / max(1, len(trials))


def result(soak: Soak) -> dict[str, Any]:
    """The figures so far."""
    begin, end = rates(soak.trials)
    length_s = soak.trials[-1][0] if soak.trials else 0.0
    # a short soak has a short warm-up, and tells less
    warm_up_s = min(WARM_UP_S, length_s / 2)
    known = (soak.trials or [(0.0, 0)], soak.mb_per_trial)
    verdicts = [found for t in soak.tracks.values() if (found := verdict(t, warm_up_s, *known))]
    return {
        "minutes": round(length_s / 60, 1),
        "trials": soak.trials[-1][1] if soak.trials else 0,
        "kb_per_trial": round(1000 * soak.mb_per_trial, 2),
        "trials_per_minute_at_begin": round(begin, 1),
        "trials_per_minute_at_end": round(end, 1),
        "processes": verdicts,
        "lost": soak.lost,
        "samples": {
            track.name: {key: seen for key, seen in vars(track).items() if isinstance(seen, list)}
            for track in soak.tracks.values()
        },
        "finished": soak.trials,
    }


def show_now(soak: Soak) -> None:
    """A line for each process as it is now."""
    at_s, finished = soak.trials[-1]
    tell(f"minute {at_s / 60:.0f}, {finished} trials")
    for track in soak.tracks.values():
        if track.at_s:
            tell(
                f"  {track.name:<11} USS {track.uss_mb[-1]:7.1f} MB,"
                f" RSS {track.rss_mb[-1]:7.1f} MB, {track.files[-1]} open files,"
                f" {track.threads[-1]} threads"
            )


def show(figures: Mapping[str, Any]) -> None:
    """The result for a person."""
    columns = (
        *("USS, MB", "at 5 min", "at the end", "an hour", "without the study"),
        *("RSS", "files", "threads", ""),
    )
    rows = []
    for found in figures["processes"]:
        five = found["uss_mb_at_5_minutes"]
        rows.append(
            (
                found["name"],
                "" if five is None else f"{five:.1f}",
                f"{found['uss_mb_at_the_end']:.1f}",
                f"{found['mb_per_hour']:+.1f}",
                f"{found['mb_per_hour_without_the_study']:+.1f}",
                f"{found['rss_mb_at_the_end']:.1f}",
                str(found["files_at_the_end"]),
                str(found["threads_at_the_end"]),
                "flat" if found["flat"] else "GROWS",
            )
        )
    print_table(
        f"soak of {figures['minutes']} minutes",
        columns,
        rows,
        f"{figures['trials']} trials of {figures['kb_per_trial']} KB in each process;"
        f" {figures['trials_per_minute_at_begin']} a minute at the begin"
        f" and {figures['trials_per_minute_at_end']} at the end",
        *(f"{name} ended before the search did" for name in figures["lost"]),
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="scripts/soak", description=__doc__)
    it.add_argument(
        "--minutes", type=positive, default=30.0, metavar="M", help="how long (default: 30)"
    )
    add_count(it, "--workers", 4)
    it.add_argument(
        "--json",
        type=Path,
        default=ROOT / "build" / "soak.json",
        metavar="FILE",
        help="figures and samples, written at each sample (default: build/soak.json)",
    )
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 1 where something grew or ended."""
    return run(parser(), _main, argv, stores=True)


def _main(args: argparse.Namespace, words: Sequence[str]) -> int:
    # whoever started it in the background may close the terminal
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    facts = about("scripts/soak", words)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak()
    try:
        watch(args, folder, soak, facts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        figures = result(soak)
        write_json(args.json, figures | facts)
    show(figures)
    flat = all(found["flat"] for found in figures["processes"])
    complete = len(figures["processes"]) == args.workers + 1
    return 0 if flat and complete and not figures["lost"] else 1


if __name__ == "__main__":
    sys.exit(main())
