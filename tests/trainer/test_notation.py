"""How values are written: one rule for numbers, keys that stand once, texts that stay texts."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.config import load_yaml, parse_set, read_config, read_yaml
from trainer.errors import ConfigError
from trainer.notation import dump_yaml, load_json, read_text


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as told:
        load_yaml(text, "my.yaml")
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("12", 12), ("-3", -3), ("+4", 4), ("010", 10), ("08", 8), ("-0", 0)),
        *(("1.5", 1.5), (".5", 0.5), ("5.", 5.0), ("1e-4", 1e-4), ("5E3", 5e3), ("0e9", 0.0)),
        *(
            ("1:30", "1:30"),
            ("1_000", "1_000"),
            ("1_e4", "1_e4"),
            ("e4", "e4"),
            ("1,000", "1,000"),
            ("0x1F", "0x1F"),
        ),
        *(("0o17", "0o17"), ("0b1", "0b1"), ("1e400", "1e400"), ("-1e400", "-1e400")),
        *(("1e-400", "1e-400"), ("9" * 400, "9" * 400), ("9" * 5000, "9" * 5000)),
        *(("2024-01-01", "2024-01-01"), ("2024-01-01 10:00:00", "2024-01-01 10:00:00")),
        *(("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("=", "=")),
        *(("true", True), ("False", False), ("null", None), ("~", None), ("", None)),
        *(("'1e-4'", "1e-4"), ('"010"', "010"), ("٣", "٣"), ("nan", "nan"), ("inf", "inf")),
        *((".inf", math.inf), ("-.INF", -math.inf), ("!!str 3", "3"), ("!!float 3", 3.0)),
    ],
)
def test_a_plain_value_is_what_it_spells(text: str, value: Any) -> None:
    read = load_yaml(f"[{text}]" if text and "," not in text else text, "x")
    read = read[0] if isinstance(read, list) else read
    assert (read, type(read)) == (value, type(value))


def test_dot_nan_is_no_number() -> None:
    assert math.isnan(load_yaml(".nan", "x"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", "my.yaml, line 3: key 'a' stands there twice, first in line 1"),
        ("a:\n  b: 1\n  'b': 1\n", "line 3: key 'a.b' stands there twice, first in line 2"),
        ("- {p: 1, q: 2, p: 3}", "line 1: key 'p' stands there twice"),
        ("1: a\n'1': b", "line 2: key '1' stands there twice"),
        ("a: &x {p: 1}\nb: {<<: *x, <<: *x}", "line 2: key 'b.<<' stands there twice"),
        ("a: 1\n---\nb: 2", "line 2: not YAML: a second document (---) begins; one file holds one"),
        ("a:\n\tb: 1", "line 2: not YAML: found character '\\t'"),
        ("a:\n\tb: 1", "indent with spaces, not with tabs"),
        ("a: [", "my.yaml, line 1: not YAML: "),
        ("a: 1\nb: \x07", "line 2: not YAML: no place for '\\x07'"),
        ('a: "\\U00110000"', "line 1: not YAML: "),
        ('a: "x\\0"', "line 1: 'x\\x00' holds a character that no text may have"),
        ('a: "\\ud800"', "line 1: '\\ud800' holds a character that no text may have"),
        ("a: 1\nb: !!timestamp 2024-01-01", "line 2: '2024-01-01' with the tag"),
        ("a: !!python/object/apply:os.system ['true']", "line 1: the tag tag:yaml.org,2002:python"),
        ("a: !!int 1:30", "line 1: '1:30' with the tag"),
        ("? [1, 2]\n: 3", "line 1: a key must be a word"),
        ("a: &a [*a]", "line 1: an anchor stands within itself"),
        ("<<: 3", "line 1: `<<` needs a mapping"),
        ("[" * 60 + "]" * 60, "nested too deeply"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(text: str, says: str) -> None:
    assert says in refused(text)


def test_a_file_that_multiplies_itself_is_refused_before_it_fills_the_memory() -> None:
    levels = [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 12)]
    assert "repeats itself by its anchors" in refused("\n".join(["a0: &a0 [1, 2]", *levels]))


def test_anchors_and_merge_keys_are_read_and_what_stands_beside_goes_first() -> None:
    text = "a: &x {p: 1, q: 2}\nb: &y {q: 5, r: 6}\nc: {<<: *x, q: 3}\nd: {<<: [*x, *y]}\ne: *x\n"
    read = load_yaml(text, "x")
    assert read["c"] == {"p": 1, "q": 3}
    assert read["d"] == {"p": 1, "q": 2, "r": 6}
    assert read["e"] == read["a"]


def test_letters_that_json_writes_in_halves_are_joined() -> None:
    assert load_yaml('"\\ud83d\\ude00"', "x") == "😀"
    # a byte of a file name that is no UTF-8
    assert load_yaml('"\\udcff"', "x") == "\udcff"


# ---------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_a_file_is_read_in_every_encoding_that_it_names(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "c.yaml"
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    file.write_bytes(f"{mark}experiment:\r\n  name: é\r\n".encode(encoding))
    assert read_config(file)[0].experiment.name == "é"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name: ü\nb: é".encode("latin-1"), "not a text file in UTF-8 (byte 0xFC in line 1)"),
        ("name: x".encode("utf-16-le"), "it holds zero bytes, as UTF-16 does without its mark"),
        (b"\xff\xfea", "not a text file in UTF-8 (utf-16)"),
    ],
)
def test_another_encoding_is_refused_with_what_it_is(
    tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="save it as UTF-8") as told:
        read_text(file)
    assert says in str(told.value)
    assert str(file) in str(told.value)


def test_a_workbook_is_told_to_be_one(tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    file.write_bytes(b"PK\x03\x04rest")
    with pytest.raises(ConfigError, match="an Excel workbook; save its table as CSV"):
        read_text(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1,\n "b": {"a": 2, "c": "a:",\n "a": 3}}', "x.json, line 3: key 'a' stands there"),
        ('[{"p": [{"q": 1}, {"q": 2}]},\n{"q": 1, "p": 2, "q": 3}]', "line 2: key 'q' stands"),
        ('{"a": 1', "x.json: not JSON: "),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 60 + "]" * 60, "nested too deeply"),
        ('["\\ud800"]', "holds a character that no text may have"),
        ('{"a\\u0000": 1}', "holds a character that no text may have"),
    ],
)
def test_json_is_read_by_the_same_rule(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as told:
        load_json(text, "x.json")
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_a_number_of_json_that_no_float_holds_stays_text() -> None:
    assert load_json('[1e400, 1e-4, 3, "\\ud83d\\ude00"]', "x") == ["1e400", 1e-4, 3, "😀"]


# ------------------------------------------------------------------------------- what we write

# readers of YAML 1.2 take these for something else than text
_CORE = re.compile(
    r"~|null|Null|NULL||true|True|TRUE|false|False|FALSE|[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
    r"|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
ODD = (
    *("2024", "010", "08", "0o17", "0x1F", "0b1", "1e-4", "1e5", "+.5", "5.", "1_000", "1:30"),
    *("1:30.5", ".inf", ".NaN", "yes", "No", "on", "OFF", "y", "N", "true", "null", "~", "", "="),
    *("<<", "2024-01-01", "2024-01-01T10:00:00Z", "a: b", "- a", "# a", "a #b", " a", "a ", "a\nb"),
    *("\ta", "'", '"', "é", "😀", "\x85", "\u2028", "\ufeff", "[a", "{a", "&a", "*a", "!a", "%a"),
    *("@a", "`a", "|", ">", "?", "? a", ":", "-", "---", "...", "0.0316 (4.6%)", "a\tb", "\x07"),
    *("\r", "a\rb", "a\r\nb", "a\x85b\n", "a\u2029b", "a \n b\n\n", "\n"),
)


@pytest.mark.parametrize("text", ODD)
def test_a_text_that_we_write_is_read_as_that_text_by_every_reader(text: str) -> None:
    written = dump_yaml({"experiment": {"name": text}, "x": [text], text or "k": {"k": text}})
    data = {"experiment": {"name": text}, "x": [text], text or "k": {"k": text}}
    assert load_yaml(written, "x") == data
    assert yaml.safe_load(written) == data
    for token in yaml.scan(written):
        if isinstance(token, yaml.ScalarToken) and token.plain:
            assert not _CORE.fullmatch(token.value)
            assert token.value not in ("y", "Y", "n", "N")


def test_numbers_that_we_write_are_the_same_numbers_for_every_reader() -> None:
    rng = random.Random(0)
    numbers: list[Any] = [0.0, -0.0, 1e-5, 5e-324, 1.7976931348623157e308, 1e16, 0.1, 3, -7, 10**20]
    numbers += [rng.uniform(-1, 1) * 10.0 ** rng.randint(-300, 300) for _ in range(300)]
    numbers += [True, False, None, math.inf]
    written = dump_yaml({"x": {str(place): number for place, number in enumerate(numbers)}})
    for read in (load_yaml(written, "x"), yaml.safe_load(written)):
        assert list(read["x"].values()) == numbers
        assert [*map(type, read["x"].values())] == [*map(type, numbers)]


# --------------------------------------------------------------------------------- keys and texts

TYPED = """\
experiment: {name: 2024-01-01, description: 010}
model: {name: no, dropout: '0.25'}
data: {root: 2024, batch_size: "4"}
augmentation: {scale_range: ['0.9', 1.1]}
loss: {dice_schedule: constant}
training: {learning_rate: '1e-4', epochs: 010, early_stopping_patience: auto}
runtime: {compile: no, channels_last: "yes", device: cpu}
search: {study: 08, trial: 3, note: 1e5}
"""


def test_a_key_takes_its_value_as_it_is_spelt(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(TYPED, encoding="utf-8")
    config, notes = read_config(file)
    assert (config.experiment.name, config.experiment.description) == ("2024-01-01", "010")
    assert (config.model.name, config.model.dropout) == ("no", 0.25)
    assert (config.data.root, config.data.batch_size) == ("2024", 4)
    assert config.augmentation.scale_range == [0.9, 1.1]
    assert (config.training.learning_rate, config.training.epochs) == (1e-4, 10)
    assert config.training.early_stopping_patience == "auto"
    assert (config.runtime.compile, config.runtime.channels_last) == (False, True)
    assert config.search == {"study": "08", "trial": 3, "note": "1e5"}
    assert "training.learning_rate: the text '1e-4' is now a number" in notes


@pytest.mark.parametrize(
    "value", ["1:30", "'24 epochs'", "1_000", "1e400", "0x1F", "'1,000'", "no"]
)
def test_a_text_that_spells_no_number_is_refused_where_one_is_needed(
    tmp_path: Path, value: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"training: {{epochs: {value}}}", encoding="utf-8")
    with pytest.raises(ConfigError) as told:
        read_config(file)
    assert f"training.epochs: Input should be a valid integer, got '{value.strip(chr(39))}'" in str(
        told.value
    )


def test_a_value_on_the_command_line_is_read_by_the_same_rule() -> None:
    for text, value in [
        ("epochs=010", 10),
        ("experiment.name=010", "010"),
        ("experiment.name=run #3: again", "run #3: again"),
        ("experiment.name='1e-4'", "1e-4"),
        ("dice_schedule=no", "no"),
        ("T_0=1:30", "1:30"),
    ]:
        assert parse_set(text)[1] == value
    with pytest.raises(ConfigError, match="--set scale_range, line 1: key 'a' stands there twice"):
        parse_set("scale_range={a: 1, a: 2}")


def test_an_empty_file_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "c.yaml") is None
