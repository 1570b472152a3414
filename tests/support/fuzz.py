"""Random edits of good files, each through the command that reads it.

Whatever a file has become, the command takes it or refuses it: exit code 0, or 2 with one line on
stderr and a store that holds what it held before. What an import has stored can be reported,
exported and compared. A case is known by its seed alone.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import random
import re
import shutil
import sqlite3
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from optuna.storages._rdb.storage import _VersionManager

from search import compare, export, queue, report, run
from search.execution import supervisor
from search.management import opening
from search.reporting import html
from tests.support.studies import TINY, store, study_of
from trainer import train
from trainer.config import Config, to_yaml, with_values
from trainer.data import dataset

STUDY = "faces"

# values that some reader, some day, took for something else
NASTY = (
    *("", "-", "--", "N/A", "null", "~", "none", "auto", "running", "failed", "yes", "no", "off"),
    *("true", "False", "0", "-0", "-1", "1", "2", "010", "08", "0x1F", "0o17", "1_000", "1,000"),
    *("1.000", "1.000,5", "0,6889", "1,5", ",5", ".5", "5.", "1e-4", "1E400", "1e-400", "-1e400"),
    *("99999999999999999999", "9" * 400, "9" * 5000, "1e308", "1:30", "24 epochs", "$5", "5 €"),
    *(
        "50%",
        "0.0316 (4.6%)",
        "**0.5**",
        "0.5 ⭐",
        "nan",
        "NaN",
        ".nan",
        "inf",
        "-.inf",
        "Infinity",
    ),
    *("2024-01-01", "2024-01-01 10:00:00", "'1e-4'", '"2024"', "'", '"', "[]", "{}", "[1, 2]"),
    *("[0.9, 1.1]", "{a: 1}", "*x", "&x 1", "!!float 1", "!!python/name:os.system", "<<", "=", "@"),
    *(
        "=1+1",
        "a\tb",
        "a: b",
        "- a",
        "# a",
        "é",
        "\u00a0",
        "\u2028",
        "\x85",
        "\x07",
        "\x00",
        "\x1b[31m",
    ),
    *('"\\0"', '"\\ud800"', '"\\U00110000"', "\u202e", "😀", "٣", "４", "²", "½", "−5", "x" * 3000),
    *("[bold]", ":smile:", "<script>", "../..", "a/b", "model.name", "dice_weight", "[" * 60),
)
# keys and headings that stand elsewhere, or mean the same as another
KEYS = (
    *("dice_weight", "epochs", "T_0", "lr", "learning_rate", "best_val_f", "value", "score", "run"),
    *("name", "seed", "note", "config", "state", "metric", "trial", "batch_size", "image_size", ""),
    *(
        "loss.dice_weight",
        "val_f_score",
        "val_f",
        "scale_range",
        "early_stopping_patience",
        "model",
    ),
)

OLD = """\
experiment: {name: lmsa_v1, description: targeting 0.71+}
output_dir: checkpoints/a
data: {batch_size: 32, num_workers: 16, val_split: 0.1}
model: {name: microsegformer, num_classes: 19, dropout: 0.15}
loss: {ce_weight: 1.0, dice_weight: 1.5, use_focal: no}
gpu_augmentation: {contrast: 0.2, rotation_degrees: 12}
training:
  epochs: 200
  learning_rate: 8e-4
  weight_decay: '1e-4'
  use_amp: yes
  scheduler: CosineAnnealingLR
  early_stopping_patience: 999
"""
ANCHORED = """\
# by hand
common: &common
  epochs: 12
  warmup_epochs: 0.5
training:
  <<: *common
  learning_rate: 3e-3
  scheduler_params: {T_0: 4, T_mult: 1, eta_min: 1.0e-6}
augmentation:
  scale_range: [0.9, 1.1]
  color_jitter:
    brightness: 0.1
model: {dropout: 0.2, width: 0.1}
runtime: {threads: 1, compile: false, precision: float32}
"""
QUEUE = """\
- params: {dice_weight: 2.5, dice_schedule: step, dice_ramp: 0.4}
  note: higher, and moving
  seed: 7
  priority: 2
  expect: [0.6, 0.7]
- params:
    dropout: 0.1
    weight_decay: 1e-4
    T_0: 4
- params: {label_smoothing: 0.1}
  note: 2024-01-01
"""
TABLES = (
    """\
Run,Dice Weight,Best Val F-Score,Best Epoch,Train@Best,Final Val,Degradation,Epochs,lr,Seed,Note
a,**1.0**,0.6819,80,0.6802,0.6503,0.0316 (4.6%),150,8e-4,1,first
b,1.5,0.6889 ⭐,92,0.6987,0.6544,0.0344 (5.0%),150,8e-4,2,"best, so far"
c,2.0,0.6702,68,0.6783,0.6203,0.0500 (7.5%),150,8e-4,3,
d,2.5,running,,,,,150,8e-4,4,
""",
    """\
sep=;
dice_weight;dropout;best_val_f;epochs;T_0;dice_schedule
1,0;0,1;0,6819;100;25;constant
1,5;0,1;0,6889;100;50;step
2,0;0,2;0,6702;100;100;linear
""",
    """\
trial\tname\tstate\tvalue\tbest_val_f\tepochs_trained\tstill_rising\tbatch_size\tamp
0\tone\tCOMPLETE\t0.5\t0.5\t20\tyes\t8\tTrue
1\ttwo\tCOMPLETE\t0.6\t0.6\t24\tno\t16\tFalse
2\tthree\tRUNNING\t\t\t\t\t8\tTrue
""",
)
ROWS = """\
- run: x
  dice_weight: 1.0
  best_val_f: 0.5
  final_val_f: 0.4
  seed: 3
- run: y
  dice_weight: 2.0
  best_val_f: 0.6
  train_f_at_best: 0.7
  epochs: 90
  config: {training: {scheduler_params: {T_0: 30}}}
"""
HISTORIES = json.dumps(
    [
        {
            "run": name,
            "seed": seed,
            "config": {
                "experiment": {"name": f"try {name}", "description": "Continue from best (0.5)"},
                "model": {"dropout": 0.1 * seed},
                "loss": {"dice_weight": 1.0 + seed / 2, "use_focal": False},
                "training": {"epochs": 4, "learning_rate": "8e-4", "scheduler_params": {"T_0": 2}},
            },
            "val_f_score": [0.1, 0.2, 0.3 + seed / 10],
            "train_f_score": [0.1, 0.3, 0.5],
            "lr": [1e-3, 5e-4, 1e-4],
        }
        for seed, name in enumerate("abc", 1)
    ],
    indent=1,
)
HISTORY = json.dumps(
    [{"epoch": at, "val_f": 0.1 * at, "train_f": 0.12 * at, "lr": 1e-3} for at in (1, 2, 3)],
    indent=1,
)

# kind -> name of the file that is edited, its good text, and what lies beside it
IMPORTS = (
    *(("table.csv", text, {}) for text in TABLES),
    ("table.yaml", ROWS, {}),
    ("runs.json", HISTORIES, {}),
    ("run/config.yaml", OLD, {"run/history.json": HISTORY}),
    ("run/history.json", HISTORY, {"run/config.yaml": ANCHORED.replace("common: ", "other: ")}),
)


# ------------------------------------------------------------------------------------------ edits


def edited(rng: random.Random, text: str) -> bytes:
    """A good text after some edits, mostly one, as bytes."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        text = rng.choice(_EDITS)(rng, text)
    content = text.encode("utf-8", "surrogatepass")
    return rng.choice(_ENCODINGS)(rng, content) if rng.random() < 0.15 else content


def _letter(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    new = rng.choice(["", rng.choice(NASTY), *"'\":,;#&*!|>%@`[]{}-?\\\t\n \r.0e_"])
    return text[:at] + new + text[at + rng.randint(0, 1) :]


def _lines(rng: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True) or [text]
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.randrange(4)
    if what == 0:
        del lines[one]
    elif what == 1:
        lines.insert(other, lines[one])
    elif what == 2:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        lines[one] = " " * rng.randint(1, 4) + lines[one]
    return "".join(lines)


def _value(rng: random.Random, text: str) -> str:
    """A value, cell or word is another."""
    spots = list(re.finditer(r"(?<=[:,;\t\[{ ])[^:,;\t\[\]{}\n]+", text))
    if not spots:
        return text
    spot = rng.choice(spots)
    return text[: spot.start()] + rng.choice(NASTY) + text[spot.end() :]


def _key(rng: random.Random, text: str) -> str:
    """A key or heading is another, or is written a second time."""
    spots = list(re.finditer(r"[A-Za-z_][\w ]*(?=\"?[:,;\t])", text))
    if not spots:
        return text
    spot = rng.choice(spots)
    new = rng.choice([*KEYS, spot[0].upper(), rng.choice(spots)[0]])
    return text[: spot.start()] + new + text[spot.end() :]


def _cut(rng: random.Random, text: str) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _harmless(rng: random.Random, text: str) -> str:
    """A number is written otherwise, or a line stands empty."""
    spots = list(re.finditer(r"(?<=[:,;\t\[ ])[0-9]+(?:\.[0-9]+)?(?=[,;\t\]}\n])", text))
    if not spots or rng.random() < 0.2:
        return text.replace("\n", "\n\n", 1)
    spot = rng.choice(spots)
    forms = [
        f"0{spot[0]}",
        f"{spot[0]}e0",
        f"'{spot[0]}'",
        f"+{spot[0]}",
        f"{spot[0]} ",
        "3",
        "0.1",
    ]
    return text[: spot.start()] + rng.choice(forms) + text[spot.end() :]


_EDITS = (_harmless, _harmless, _letter, _lines, _value, _value, _value, _key, _cut)


def _reencoded(name: str) -> Callable[[random.Random, bytes], bytes]:
    def change(rng: random.Random, content: bytes) -> bytes:
        return content.decode("utf-8", "replace").encode(name, "replace")

    return change


def _byte(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + bytes([rng.randrange(256)]) + content[at:]


_ENCODINGS = (
    *map(_reencoded, ("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "latin-1", "cp1252")),
    _byte,
    lambda rng, content: content.replace(b"\n", b"\r\n"),
    lambda rng, content: content.replace(b"\n", b"\r"),
)


# ---------------------------------------------------------------------------------------- commands


@dataclass(frozen=True)
class Ended:
    """How a command ended. bug: its traceback, None where it had none."""

    code: int
    out: str
    err: str
    bug: str | None


def ended(main: Callable[[list[str]], int], words: Sequence[str]) -> Ended:
    out, err, bug, code = io.StringIO(), io.StringIO(), None, 1
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(words))
        except SystemExit as left:
            code = int(str(left.code or 0))
        except Exception:
            bug = traceback.format_exc()
    return Ended(code, out.getvalue(), err.getvalue(), bug)


@dataclass(frozen=True)
class Fuzz:
    """Where cases are tried.

    folder: holds a store with a search, from which each case starts. counts: cases by kind and
    exit code.
    """

    folder: Path
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder}/case/search.db"

    def tried(self, seed: int) -> str | None:
        """What is wrong with a case; None for nothing."""
        case = self.folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        shutil.copy(self.folder / "search.db", case / "search.db")
        rng = random.Random(seed)
        kind = ("import", "import", "enqueue", "config")[seed % 4]
        before = _held(case)
        file, words, main = getattr(self, f"_{kind}")(rng, case)
        found = ended(main, words)
        self.counts[kind, found.code] += 1
        wrong = _wrong(found)
        if wrong is None and found.code == 2 and _held(case) != before:
            wrong = "exit code 2, and yet the store holds something else than before"
        if wrong is None and kind == "import" and found.code == 0:
            wrong = self._unreadable()
        if wrong is None:
            return None
        return f"seed {seed}, {kind}: {wrong}\n{words}\n{file.read_bytes()[:3000]!r}"

    def _import(self, rng: random.Random, case: Path) -> tuple[Path, list[str], Callable[..., int]]:
        name, text, beside = rng.choice(IMPORTS)
        for other, content in beside.items():
            (case / other).parent.mkdir(exist_ok=True)
            (case / other).write_text(content, encoding="utf-8")
        file = case / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(edited(rng, text))
        what = file.parent if beside else file
        words = [str(what), "--study", "old", "--storage", self.url]
        # `import` is a keyword
        return file, words, importlib.import_module("search.import_results").main

    def _enqueue(
        self, rng: random.Random, case: Path
    ) -> tuple[Path, list[str], Callable[..., int]]:
        file = case / "queue.yaml"
        file.write_bytes(edited(rng, QUEUE))
        if rng.random() < 0.75:
            return file, ["add", str(file), "--study", STUDY, "--storage", self.url], queue.main
        base = case / "base.yaml"
        base.write_text(to_yaml(with_values(Config(), TINY)), encoding="utf-8")
        return file, [*self._search(case, base), "--enqueue", str(file)], run.main

    def _config(self, rng: random.Random, case: Path) -> tuple[Path, list[str], Callable[..., int]]:
        values = {"T_0": 2.5, "experiment.name": "1e-4", "learning_rate": 3e-5}
        record = {"study": "s", "trial": 3, "searched": ["T_0"], "fixed": {}, "data": {"name": "x"}}
        export_ = to_yaml(with_values(Config(), {**TINY, **values}), record)
        by_hand = "".join(
            line for line in ANCHORED.splitlines(keepends=True) if not line.startswith("common:")
        ).replace("  epochs: 12\n  warmup_epochs: 0.5\n", "", 1)
        by_hand = by_hand.replace("  <<: *common\n", "  <<: {epochs: 12, warmup_epochs: 0.5}\n")
        file = case / "config.yaml"
        file.write_bytes(edited(rng, rng.choice([OLD, by_hand, export_])))
        if rng.random() < 0.5:
            return file, self._search(case, file), run.main
        words = ["--config", str(file), "--data", "synthetic", "--device", "cpu"]
        words += ["--out", str(case / "out"), *rng.choice([[], ["--preset", "small"]])]
        if rng.random() < 0.25:
            key = rng.choice(["epochs", "T_0", "batch_size", "experiment.name", "scale_range"])
            words += ["--set", f"{key}={rng.choice(NASTY)}".replace("\0", "")]
        return file, words, train.main

    def _search(self, case: Path, config: Path) -> list[str]:
        return [
            *("--trials", "2", "--workers", "1", "--plain", "--device", "cpu", "--study", "new"),
            *("--config", str(config), "--data", "synthetic", "--storage", self.url),
            *("--runs", str(case / "runs")),
        ]

    def _unreadable(self) -> str | None:
        """What is wrong with reading an imported study; None where all its readers read it."""
        where = ["--storage", self.url]
        for main, words in (
            (report.main, ["--study", "old", "--out", str(self.folder / "case" / "r.html")]),
            (export.main, ["--study", "old", "--format", "csv"]),
            (compare.main, ["old", STUDY]),
        ):
            found = ended(main, [*words, *where])
            if found.bug or found.code:
                name = main.__module__
                return f"{name} of what was imported: {found.code} {found.err} {found.bug or ''}"
        return None


def _wrong(found: Ended) -> str | None:
    if found.bug is not None:
        return f"a traceback: {found.bug}"
    if found.code not in (0, 2):
        return f"exit code {found.code}: {found.err}"
    lines = found.err.splitlines()
    if found.code == 2 and not (len(lines) == 1 and lines[0].startswith("error: ")):
        return f"exit code 2 with another stderr than one line: {found.err!r}"
    return None


def _held(case: Path) -> list[str]:
    """All that the store of a case holds."""
    with contextlib.closing(sqlite3.connect(case / "search.db")) as db:
        return list(db.iterdump())


def _once(real: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose first answer stands for all."""
    known: list[Any] = []

    def answer(*given: Any) -> Any:
        if not known:
            known.append(real(*given))
        return known[0]

    return answer


@contextlib.contextmanager
def fuzz(folder: Path) -> Iterator[Fuzz]:
    """A place for cases. Nothing is trained in it: a config that would be has been read whole."""

    def read_whole(*_: object, **__: object) -> None:
        raise SystemExit(0)

    study_of(store(folder), STUDY)
    with contextlib.closing(sqlite3.connect(folder / "search.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(dataset, "load_faces", read_whole)
        patch.setattr(opening, "load_faces", lambda *_, **__: None)
        patch.setattr(supervisor, "supervise", lambda *_: 0)
        patch.setattr(run, "PrewarmedWorker", contextlib.nullcontext)
        # the same in every case, and slow: Optuna's newest schema, the script in each page
        patch.setattr(_VersionManager, "get_head_version", _once(_VersionManager.get_head_version))
        patch.setattr(html, "_packed", _once(html._packed))
        yield Fuzz(folder)
