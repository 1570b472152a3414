"""Files as people spoil them: taken, or refused in one line with nothing half stored.

The proof has tried the seeds 0 to 1,999, as `scripts/test -m proof -k fuzz` does it: 1,000 import
tables and histories, 500 enqueue files and 500 configs. It found KINDS.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests import fuzz as fuzzing
from tests.fuzz import Fuzz, fuzz

QUICK, WHOLE = range(2000, 2120), range(2000)


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
        assert [wrong for seed in range(32) if (wrong := place.tried(seed))] == []
    assert {code for (kind, code) in place.counts} == {0}
    assert {kind for (kind, code) in place.counts} == {"import", "enqueue", "config"}


def test_an_edit_is_known_by_its_seed() -> None:
    one, same, other = (fuzzing.edited(random.Random(seed), fuzzing.OLD) for seed in (1, 1, 2))
    assert one == same != other


def test_whatever_becomes_of_a_file_it_is_read_or_refused(place: Fuzz) -> None:
    place.counts.clear()
    assert [wrong for seed in QUICK if (wrong := place.tried(seed))] == []
    # a fuzz that everything refuses would have tried little
    for kind in ("import", "enqueue", "config"):
        assert place.counts[kind, 0] >= 3
        assert place.counts[kind, 2] >= 3


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_two_thousand_files_are_read_or_refused(place: Fuzz) -> None:
    place.counts.clear()
    assert [wrong for seed in WHOLE if (wrong := place.tried(seed))] == []
    assert place.counts.total() == 2000
