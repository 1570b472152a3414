"""Kills workers and supervisors of real searches at random, and says what was lost: nothing, or it
is named. `scripts/torture`.

Studies of short trials, one after the other, until the kills are used up: -9, -TERM and STOP/CONT
of workers, -9, -TERM, -INT and STOP/CONT of the supervisor, and everything at once as in a power
cut. After a supervisor has ended the same command is started again, until it says that the study
has its trials. What happened is then judged by triggers in the store itself (torture_judge.py).

A call ends in time; the same call again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.common import (
    add_count,
    print_table,
    run,
    tell,
    write_json,
)
from scripts.reliability.service import (
    about,
    add_pieces,
    earlier_work,
    end_all,
    environment,
    kind_of,
    last_line,
    living,
    new_work,
    search,
    store_at,
    tiny,
    workers,
)
from trainer.cli import Parser
from trainer.errors import UserError

if TYPE_CHECKING:
    from storage import LeasedStorage

EPOCHS, IMAGES = 12, 100
BEAT_S, GRACE_S = 1.0, 3.0
# mean seconds from one kill to the next, while somebody trains
PAUSE_S = 3.0
# of the kills: those that come at any moment, also while all are only starting
ANY_MOMENT = 0.15
# what is done, and how often
KINDS = {
    "worker SIGKILL": 30,
    "worker SIGTERM": 15,
    "worker STOP/CONT": 15,
    "supervisor SIGKILL": 10,
    "supervisor SIGTERM": 8,
    "supervisor SIGINT": 7,
    "supervisor STOP/CONT": 5,
    "power cut": 10,
}
_SIGNALS = {
    "SIGKILL": signal.SIGKILL,
    "SIGTERM": signal.SIGTERM,
    "SIGINT": signal.SIGINT,
    "STOP/CONT": signal.SIGSTOP,
}
# a supervisor that was ended by a signal before it listened to it, or by its own word
_ENDED = {130, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL}
_DRAIN_S = 60.0


@dataclass
class Progress:
    """What is kept between the calls.

    kills: in order, with the study's number. studies: figures of those that have ended. seen:
    study -> trial id -> digest of a finished trial.
    """

    settings: dict[str, Any]
    work: str
    kills: list[dict[str, Any]] = field(default_factory=list)
    studies: list[dict[str, Any]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    seen: dict[str, dict[int, str]] = field(default_factory=dict)
    endings: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    done: bool = False


@dataclass
class Torment:
    """The supervisor at work, and whom to wake when."""

    folder: Path
    flags: Sequence[str]
    supervisor: subprocess.Popen[bytes] | None = None
    struck: str | None = None
    asleep: dict[Any, float] = field(default_factory=dict)

    def start(self) -> None:
        self.supervisor, self.struck = search(self.folder, *self.flags), None

    def awake(self) -> list[Any]:
        """The supervisor's workers that are not stopped."""
        assert self.supervisor is not None
        return [one for one in workers(self.supervisor.pid) if one not in self.asleep]

    def wake(self, *, all_of_them: bool = False) -> None:
        """Let those go on whose time has come."""
        import psutil

        for process, until in list(self.asleep.items()):
            if all_of_them or time.monotonic() >= until:
                del self.asleep[process]
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def strike(
        self, kind: str, chance: random.Random, owners: set[int] | None
    ) -> tuple[int, ...] | None:
        """Do it; the workers whose trials it interrupts, None where nobody is there for it.

        owners: a worker is chosen among these; None: any.
        """
        import psutil

        assert self.supervisor is not None
        head = psutil.Process(self.supervisor.pid)
        whom, _, how = kind.partition(" ")
        if whom == "power":
            victims = living(self.folder)
            # the supervisor first: it would start workers again
            for process in [head, *(one for one in victims if one != head)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.struck = kind
            return tuple(process.pid for process in victims if process != head)
        if whom == "worker":
            awake = [one for one in self.awake() if owners is None or one.pid in owners]
            if not awake:
                return None
            target = chance.choice(awake)
            cost: tuple[int, ...] = (target.pid,)
        elif head in self.asleep:
            return None
        else:
            target, self.struck = head, kind if how != "STOP/CONT" else self.struck
            cost = () if how == "STOP/CONT" else tuple(one.pid for one in workers(head.pid))
        with suppress(psutil.NoSuchProcess):
            target.send_signal(_SIGNALS[how])
        if how == "STOP/CONT":
            self.asleep[target] = time.monotonic() + GRACE_S + chance.uniform(1, 4)
        return cost


@dataclass
class Torture:
    """A call of this script on an open store."""

    args: argparse.Namespace
    progress: Progress
    storage: LeasedStorage
    url: str
    until: float

    @property
    def folder(self) -> Path:
        return Path(self.progress.work)

    @property
    def study(self) -> str:
        return f"{self.folder.name}-{len(self.progress.studies) + 1:02d}"

    def save(self) -> None:
        save(self.args.json, self.args.store, self.progress)

    def one_study(self) -> bool:
        """Torture the present study to its end; False if the time was over before."""
        flags = ["--trials", str(self.args.trials), "--workers", str(self.args.workers)]
        flags += ["--study", self.study, "--storage", self.url, "--device", "cpu"]
        flags += ["--beat-s", str(BEAT_S), "--grace-s", str(GRACE_S)]
        # the judge counts every trial in a row of its own
        flags += ["--seed", str(self.args.seed + len(self.progress.studies)), "--revive", "0"]
        torment = Torment(self.folder, flags)
        try:
            return self._watched(torment)
        finally:
            torment.wake(all_of_them=True)
            end_all(self.folder)
            if torment.supervisor is not None:
                torment.supervisor.wait()

    def _watched(self, torment: Torment) -> bool:
        torment.start()
        pause_s, before_s = PAUSE_S, time.monotonic()
        while True:
            time.sleep(0.1)
            torment.wake()
            passed_s, before_s = time.monotonic() - before_s, time.monotonic()
            assert torment.supervisor is not None
            code = torment.supervisor.poll()
            if time.monotonic() > self.until:
                self._ask_to_end(torment)
                return False
            if code is not None:
                self._ended(torment, code)
                if code == 0:
                    break
                torment.start()
            elif len(self.progress.kills) < self.args.kills:
                owners = self._owners()
                if owners is None or owners:
                    pause_s -= passed_s
                if pause_s <= 0:
                    pause_s = self._strike(torment, owners)
        self._all_gone(torment)
        return True

    def _chance(self) -> random.Random:
        """The same kills in the same order, however often the torture is interrupted."""
        return random.Random(f"{self.args.seed} {len(self.progress.kills)}")

    def _owners(self) -> set[int] | None:
        """The workers that have a trial; None where the next kill does not ask for one."""
        if self._chance().random() < ANY_MOMENT:
            return None
        try:
            study_id = self.storage.get_study_id_from_name(self.study)
        except KeyError:
            return set()
        claims = self.storage.live_claims(study_id)
        return {int(one.owner.rpartition(":")[2]) for one in claims if one.trial_id is not None}

    def _strike(self, torment: Torment, owners: set[int] | None) -> float:
        """The next kill; seconds until the one after it."""
        chance = self._chance()
        chance.random()
        kind = chance.choices(list(KINDS), weights=list(KINDS.values()))[0]
        at_s = time.time()
        cost = torment.strike(kind, chance, owners)
        if cost is None:
            return 0.0
        self.progress.kills.append(
            {"study": self.study, "at_s": at_s, "kind": kind, "workers": cost}
        )
        self.save()
        done = len(self.progress.kills)
        tell(f"kill {done} of {self.args.kills}: {kind}; {self.standing()}")
        return min(chance.expovariate(1 / PAUSE_S), 4 * PAUSE_S)

    def standing(self) -> str:
        """The present study in words."""
        try:
            study_id = self.storage.get_study_id_from_name(self.study)
        except KeyError:
            return f"{self.study}: not begun"
        finished = self.storage.count_finished(study_id)
        return f"{self.study}: {finished} of {self.args.trials} finished"

    def _ended(self, torment: Torment, code: int) -> None:
        after = torment.struck or "no kill"
        self.progress.endings[f"{after}: {code}"] = (
            self.progress.endings.get(f"{after}: {code}", 0) + 1
        )
        said = last_line(self.folder / "search.log")
        # Python's own words, where it was interrupted before anything listened
        expected = torment.struck is not None and (code in _ENDED or "KeyboardInterrupt" in said)
        if code != 0 and not expected:
            self.find(f"search.run ended with code {code} after {after}: {said}")
        self.look()
        self.save()

    def _ask_to_end(self, torment: Torment) -> None:
        """End in good order what the next call goes on with."""
        torment.wake(all_of_them=True)
        assert torment.supervisor is not None
        torment.supervisor.terminate()
        try:
            torment.supervisor.wait(_DRAIN_S)
        except subprocess.TimeoutExpired:
            self.find(f"search.run did not end within {_DRAIN_S:g} s of SIGTERM")
        self.look()

    def _all_gone(self, torment: Torment) -> None:
        torment.wake(all_of_them=True)
        until = time.monotonic() + _DRAIN_S
        while time.monotonic() < until:
            left = living(self.folder)
            if not left:
                return
            time.sleep(0.2)
        for process in left:
            self.find(f"process {process.pid} outlived the study: {shown(process)}")

    def find(self, line: str) -> None:
        """Something that should not be."""
        self.progress.findings.append(f"{self.study}: {line}")
        tell(f"FOUND {self.progress.findings[-1]}")

    def look(self) -> None:
        """Remember the finished trials as they are now; name those that have changed."""
        from scripts.reliability.torture_judge import FINISHED, digest, not_as_seen, read_rows

        with suppress(KeyError):
            study_id = self.storage.get_study_id_from_name(self.study)
            rows = read_rows(self.storage.engine, study_id)
            seen = self.progress.seen.setdefault(self.study, {})
            for line in not_as_seen(rows, seen):
                self.find(line)
            seen |= {key: digest(row) for key, row in rows.items() if row.state in FINISHED}

    def close_study(self) -> None:
        """Judge the study that has ended, and note its figures."""
        from scripts.reliability.torture_judge import (
            Evidence,
            Kill,
            judge,
            read_histories,
            read_log,
            read_rows,
            recoveries,
            repeated,
            starts,
        )

        study_id = self.storage.get_study_id_from_name(self.study)
        kills = [
            Kill(kill["at_s"], kill["kind"], tuple(kill["workers"]))
            for kill in self.progress.kills
            if kill["study"] == self.study
        ]
        evidence = Evidence(
            rows=read_rows(self.storage.engine, study_id),
            log=read_log(self.storage.engine, study_id),
            histories=read_histories(self.folder / "runs" / self.study),
            kills=kills,
            seen=self.progress.seen.get(self.study, {}),
        )
        for line in judge(evidence, self.args.trials):
            self.find(line)
        if self.storage.live_claims(study_id):
            self.find("claims are left at the end")
        self._export()
        histories = evidence.histories.values()
        states = Counter(row.state for row in evidence.rows.values())
        self.progress.studies.append(
            {
                "study": self.study,
                "complete": states["COMPLETE"],
                "pruned": states["PRUNED"],
                "kills": len(kills),
                "steps": sum(len(row.steps) for row in evidence.rows.values()),
                "repeated": sum(map(repeated, histories)),
                "resumed": sum(
                    start > 0 for tokens in histories for start in starts(tokens).values()
                ),
                "recoveries": [
                    [kill.kind, seconds] for kill, seconds in recoveries(evidence.log, kills)
                ],
            }
        )

    def _export(self) -> None:
        out = self.folder / "best.yaml"
        out.unlink(missing_ok=True)
        words = ["--storage", self.url, "--study", self.study, "--out", str(out)]
        done = subprocess.run(
            [sys.executable, "-m", "search.export", *words],
            cwd=self.folder,
            env=environment(self.folder),
            capture_output=True,
            text=True,
        )
        if done.returncode or not out.is_file():
            self.find(f"search.export: {done.stderr.strip() or 'no file'}")


# --------------------------------------------------------------------------------- calls and file


def shown(process: Any) -> str:
    """The command line of a process without the password of its store."""
    import psutil

    from storage import redact_words

    try:
        return " ".join(redact_words(process.cmdline()))
    except psutil.NoSuchProcess:
        return "it has ended just now"


def read(path: Path, store: str) -> Progress | None:
    """What earlier calls have left for this kind of store. Raises UserError for a foreign file."""
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["stores"].get(kind_of(store))
        if kept is None:
            return None
        progress = Progress(**kept["progress"])
        # JSON knows texts only as keys
        progress.seen = {
            study: {int(key): mark for key, mark in seen.items()}
            for study, seen in progress.seen.items()
        }
        return progress
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"--json {path}: not a file of scripts/torture ({error!r})") from None


def save(path: Path, store: str, progress: Progress) -> None:
    """Keep everything, beside what is known of the other kind of store."""
    whole = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"stores": {}}
    part = whole["stores"].setdefault(kind_of(store), {})
    part["figures"] = figures(progress)
    part["progress"] = dataclasses.asdict(progress)
    write_json(path, whole)


def figures(progress: Progress) -> dict[str, Any]:
    """The sums over all studies. Seconds from a kill until its trial waited or was at work again,
    by kind of kill: how many, median, maximum."""
    times: dict[str, list[float]] = {}
    for study in progress.studies:
        for kind, seconds in study["recoveries"]:
            if seconds is not None:
                times.setdefault(kind, []).append(seconds)

    def total(name: str) -> int:
        return sum(study[name] for study in progress.studies)

    return {
        "studies": len(progress.studies),
        "kills": len(progress.kills),
        "kills_by_kind": dict(Counter(kill["kind"] for kill in progress.kills)),
        "finished": total("complete") + total("pruned"),
        "complete": total("complete"),
        "pruned": total("pruned"),
        "steps": total("steps"),
        "resumed": total("resumed"),
        "repeated": total("repeated"),
        "seconds_to_recover": {
            kind: [len(found), round(median(found), 2), round(max(found), 2)]
            for kind, found in sorted(times.items())
        },
        "violations": len(progress.findings),
        "minutes": round(progress.seconds / 60, 1),
    }


def show(path: Path) -> None:
    """The figures of every store, for a person."""
    stores = json.loads(path.read_text(encoding="utf-8"))["stores"]
    names = {
        "kills": "kills",
        "studies": "studies that have ended",
        "finished": "finished trials",
        "complete": "of them complete",
        "pruned": "of them pruned",
        "steps": "steps reported",
        "resumed": "claims that went on from a checkpoint",
        "repeated": "epochs trained twice",
        "violations": "violations",
        "minutes": "minutes",
    }
    parts = [store["figures"] for store in stores.values()]

    def struck(part: dict[str, Any], kind: str) -> str:
        kills, times = part["kills_by_kind"].get(kind, 0), part["seconds_to_recover"].get(kind)
        return f"{kills}" + (
            f"; {times[0]} trials, {times[1]} s (at most {times[2]})" if times else ""
        )

    print_table(
        "torture",
        ("", *stores),
        [
            *([words, *(str(part[name]) for part in parts)] for name, words in names.items()),
            *([f"{kind}; back after", *(struck(part, kind) for part in parts)] for kind in KINDS),
        ],
        *(
            f"{store}: VIOLATION: {line}"
            for store, part in stores.items()
            for line in part["progress"]["findings"]
        ),
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = Parser(prog="scripts/torture", description=__doc__)
    it.add_argument(
        "--store",
        default="sqlite",
        metavar="URL",
        help="sqlite (default: a file), postgresql (a server of one's own), or a store's URL",
    )
    add_count(it, "--kills", 200, "in all")
    add_count(it, "--workers", 4)
    add_count(it, "--trials", 40, "of each study")
    it.add_argument("--seed", type=int, default=0, metavar="N", help="of kills (default: 0)")
    add_pieces(it, "torture.json")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 1 where something was lost."""
    return run(parser(), _main, argv, stores=True)


def _main(args: argparse.Namespace, words: Sequence[str]) -> int:
    from storage import redact

    if "://" not in args.store and args.store not in ("sqlite", "postgresql"):
        raise UserError(f"--store {args.store}: give sqlite, postgresql or a store's URL")
    settings = {
        **{name: getattr(args, name) for name in ("kills", "trials", "workers", "seed")},
        "store": redact(args.store),
    }
    progress = read(args.json, args.store)
    if progress is not None and progress.settings != settings:
        raise UserError(
            f"--json {args.json}: holds another torture ({progress.settings}); give the same"
            " arguments, or another file"
        )
    facts = about("scripts/torture", words)
    if progress is None:
        progress = Progress(settings, new_work("torture-"))
    if not progress.done:
        try:
            _one_call(args, progress)
        finally:
            save(args.json, args.store, progress)
        whole = json.loads(args.json.read_text(encoding="utf-8"))
        whole["stores"][kind_of(args.store)] |= facts
        write_json(args.json, whole)
    show(args.json)
    if not progress.done:
        tell(f"{args.json}: to be continued; give the same command again")
    elif progress.findings:
        tell(f"store, runs and logs are kept in {progress.work}")
    return 1 if progress.findings else 0


def watched(url: str) -> LeasedStorage:
    """The store for whoever only looks: a worker that was stopped in mid-write keeps its lock, and
    is woken only while nobody here waits for that lock.
    """
    from storage import open_storage

    return open_storage(url, create=False, read_only=True)


def _one_call(args: argparse.Namespace, progress: Progress) -> None:
    from scripts.reliability.torture_judge import audit, end_audit, not_as_seen, read_rows
    from storage import open_storage

    began, folder = time.monotonic(), earlier_work(progress.work, args.json)
    # left by a call that was killed
    end_all(folder)
    tiny(folder, EPOCHS, IMAGES)
    with store_at(args.store, folder) as url:
        storage = open_storage(url)
        watching = watched(url)
        try:
            audit(storage.engine)
            torture = Torture(args, progress, watching, url, began + args.minutes * 60)
            while len(progress.kills) < args.kills or not progress.studies:
                if not torture.one_study():
                    return
                torture.close_study()
                torture.save()
            for study, seen in progress.seen.items():
                rows = read_rows(watching.engine, watching.get_study_id_from_name(study))
                progress.findings += [f"{study}: {line}" for line in not_as_seen(rows, seen)]
            progress.done = True
            if not progress.findings:
                end_audit(storage.engine)
        finally:
            progress.seconds += time.monotonic() - began
            watching.close()
            storage.close()
    if not progress.findings:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
