"""Files as people spoil them: taken, or refused in one line with nothing half stored.

The proof tries the seeds 0 to 1,999: 1,000 import tables and histories, 500 enqueue files and 500
configs. 530 of them are read, 1,470 refused; `scripts/test -m proof tests/search/test_fuzz.py`
takes some 8 to 18 minutes on two busy cores. What it found while it was written (a mapping under a
key that is dropped, a file of bare words) has tests of its own in `importing/`.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import sys
from collections.abc import Iterator

import pytest

from search import export, queue
from tests.support import fuzz as fuzzing
from tests.support.fuzz import Fuzz, fuzz
from tests.support.marks import long

QUICK, LONG, WHOLE = range(2000, 2048), range(2048, 2120), range(2000)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzz]:
    with fuzz(tmp_path_factory.mktemp("fuzz")) as found:
        yield found


def test_every_file_that_is_edited_is_good_before(place: Fuzz) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzzing, "edited", lambda rng, text: text.encode())
        # values of --set are edits too
        patch.setattr(fuzzing, "NASTY", ("12",))
        place.counts.clear()
        assert [wrong for seed in range(8) if (wrong := place.tried(seed))] == []
    assert {code for (kind, code) in place.counts} == {0}
    assert {kind for (kind, code) in place.counts} == {"import", "enqueue", "config"}


def test_an_edit_is_known_by_its_seed() -> None:
    one, same, other = (fuzzing.edited(random.Random(seed), fuzzing.OLD) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("seeds", [QUICK, long(LONG)], ids=["quick", "long"])
def test_whatever_becomes_of_a_file_it_is_read_or_refused(place: Fuzz, seeds: range) -> None:
    place.counts.clear()
    assert [wrong for seed in seeds if (wrong := place.tried(seed))] == []
    # a fuzz that everything refuses would have tried little
    for kind in ("import", "enqueue", "config"):
        assert place.counts[kind, 0]
        assert place.counts[kind, 2]


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_two_thousand_files_are_read_or_refused(place: Fuzz) -> None:
    place.counts.clear()
    assert [wrong for seed in WHOLE if (wrong := place.tried(seed))] == []
    assert place.counts.total() == 2000


def test_the_fuzz_sees_what_it_is_there_to_see(
    place: Fuzz, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an enqueue file that goes through queue add
    seed = next(
        seed
        for seed in range(2, 200, 4)
        if (place.tried(seed) is None) and (place.folder / "case" / "base.yaml").exists() is False
    )

    def crashes(words: list[str]) -> int:
        raise KeyError("a bug")

    def stores(words: list[str]) -> int:
        with contextlib.closing(sqlite3.connect(place.folder / "case" / "search.db")) as db:
            db.execute("UPDATE studies SET study_name = 'other'")
            db.commit()
        return chatters([])

    def chatters(words: list[str]) -> int:
        print("error: one line", file=sys.stderr)
        if words:
            print("and another", file=sys.stderr)
        return 2

    for main, says in [
        (crashes, "a traceback: "),
        (stores, "the store holds something else"),
        (chatters, "another stderr than one line"),
        (lambda words: 3, "exit code 3"),
    ]:
        monkeypatch.setattr(queue, "main", main)
        assert says in str(place.tried(seed))


def test_the_fuzz_sees_an_import_that_cannot_be_read_again(
    place: Fuzz, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "edited", lambda rng, text: text.encode())
    monkeypatch.setattr(export, "main", lambda words: 1)
    assert "of what was imported: 1" in str(place.tried(0))
