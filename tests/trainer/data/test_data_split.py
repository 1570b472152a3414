"""Which picture goes where."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from trainer.data.split import Names, draw, read_names, split, stem_of

STEMS = tuple(f"{number:05d}" for number in range(600))


def test_a_draw_is_by_the_bytes_of_the_name():
    # as earlier versions drew it, which put every picture where it is
    assert draw("00017") == 0.6241233391828304
    for name in (b"M\xc3\xbcller", b"M\xfcller"):
        digest = hashlib.sha256(name).digest()
        assert draw(os.fsdecode(name)) == int.from_bytes(digest[:8], "big") / 2**64


def test_a_list_names_pictures_by_any_bytes(tmp_path: Path):
    names = (b"M\xc3\xbcller.jpg", b"M\xfcller", b"\xe5\xae\x9e", b"a b")
    (tmp_path / "val.txt").write_bytes(b"\xef\xbb\xbf" + b" \r\n\n".join(names))
    stems = [os.fsdecode(name) for name in (b"M\xc3\xbcller", *names[1:])]
    assert [stem_of(name) for name in read_names(tmp_path / "val.txt")] == stems


def test_every_stem_is_in_exactly_one_part():
    parts = split(STEMS, {})
    assert sorted(stem for names in parts.values() for stem in names) == sorted(STEMS)


def test_a_tenth_is_drawn_for_validation_and_a_tenth_for_the_test():
    parts = split(STEMS, {})
    assert 40 <= len(parts["val"]) <= 80
    assert 40 <= len(parts["test"]) <= 80


def test_a_stem_stays_in_its_part_when_files_are_added():
    few, many = split(STEMS[:300], {}), split(STEMS, {})
    for part, names in few.items():
        assert set(names) <= set(many[part])


def test_a_list_replaces_its_own_part_only():
    listed = STEMS[:50]
    plain, parts = split(STEMS, {}), split(STEMS, {"val": listed})
    assert parts["val"] == listed
    assert set(parts["test"]) == set(plain["test"]) - set(listed)


def test_an_empty_test_list_means_no_test_part():
    assert split(STEMS, {"test": ()})["test"] == ()


def test_exact_duplicates_share_a_part():
    twins = {STEMS[i]: STEMS[i - i % 2] for i in range(len(STEMS))}
    part_of = {stem: part for part, names in split(STEMS, {}, twins).items() for stem in names}
    assert all(part_of[STEMS[i]] == part_of[STEMS[i + 1]] for i in range(0, len(STEMS), 2))


def test_a_duplicate_of_a_listed_picture_is_never_trained_on():
    parts = split(("a", "b", "c", "d"), {"val": ("b",)}, {"a": "a", "b": "a"})
    assert parts["val"] == ("a", "b")


def test_of_very_few_pairs_one_is_for_validation():
    parts = split(("a", "b"), {})
    assert len(parts["val"]) == 1
    assert len(parts["train"]) == 1


def test_the_draw_is_even_and_depends_on_the_stem_alone():
    draws = [draw(stem) for stem in STEMS]
    assert draws == [draw(stem) for stem in STEMS]
    assert 0.45 < sum(draws) / len(draws) < 0.55


def test_names_may_carry_a_suffix_zeros_and_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "val.txt").write_text("17.jpg\n\n  18  \r\n00019\n", encoding="utf-8-sig")
    names = Names(["17", "18", "19", "x.y"])
    found = [names.find(name) for name in read_names(tmp_path / "val.txt")]
    assert found == ["17", "18", "19"]
    assert names.find("x.y") == "x.y"
    assert names.find("20") is None


def test_with_training_pairs_given_nothing_is_drawn():
    parts = split(STEMS, {"train": STEMS[:400], "val": STEMS[400:500]})
    assert parts == {"train": STEMS[:400], "val": STEMS[400:500], "test": ()}


def test_a_copy_of_a_listed_validation_picture_is_not_trained_on_though_a_list_says_so():
    given = {"train": ("a", "b"), "val": ("c",)}
    parts = split(("a", "b", "c", "d"), given, {"a": "a", "c": "a", "d": "a"})
    assert parts == {"train": ("b",), "val": ("a", "c"), "test": ()}


def test_a_name_in_another_form_of_its_accents_is_found():
    names = Names(["Zo\u00eb", "Rene\u0301"])
    assert names.find("Zoe\u0308.jpg") == "Zo\u00eb"
    assert names.find("Ren\u00e9") == "Rene\u0301"


def test_of_two_stems_of_one_number_neither_is_meant_by_a_third_way_to_write_it():
    names = Names(["17", "00017"])
    assert [names.find(name) for name in ("17", "00017", "017")] == ["17", "00017", None]
