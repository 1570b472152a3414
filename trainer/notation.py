"""How values are written: numbers, switches, and the YAML and JSON files that hold them.

One rule, wherever a value is read (files, tables, flags):

- A number is written in decimal: `12`, `-0.5`, `.5`, `1e-4`, `010` (which is ten), as in YAML 1.2.
  What some readers take for numbers besides (`1:30`, `1_000`, `0x1F`, `0o17`), what no float holds
  (`1e400`, `1e-400`), dates, and `yes`, `no`, `on`, `off` are text.
- A text for a key that takes a number is the number that it spells in decimal, or is refused; for a
  key that takes true or false it may also be yes, no, on or off.
- A key that takes text takes what stands there as it stands: `name: 2024-01-01` is ten letters.
- A key stands once in its mapping. Anchors and `<<` are read; one file holds one document.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import yaml

from trainer.errors import ConfigError

# the keys that lead to a value, places in lists left out
KeyPath: TypeAlias = tuple[str, ...]

_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NULLS = ("", "~", "null", "Null", "NULL")
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# beyond what the text itself holds; a file that multiplies itself would fill the memory
_MOST_REPEATED = 100_000
_MOST_DEEP = 50
_TOO_DEEP = "nested too deeply to be a file of settings"
_SURROGATE = re.compile("[\ud800-\udfff]")


def decimal(text: str) -> int | float | None:
    """The number that a text spells in decimal; None where it spells none that a float holds.

    >>> decimal("010"), decimal("1e-4"), decimal(" 1"), decimal("1_000"), decimal("1e400")
    (10, 0.0001, None, None, None)
    """
    if _DECIMAL.fullmatch(text) is None:
        return None
    number = float(text)
    digits = re.split("[eE]", text)[0]
    if math.isinf(number) or (number == 0 and digits.strip("+-0.")):
        return None
    return int(text) if re.fullmatch(r"[-+]?[0-9]+", text) else number


def switch(value: object) -> object:
    """True or False where a text spells it; anything else as it is.

    >>> switch("No"), switch(True), switch("maybe")
    (False, True, 'maybe')
    """
    return _SWITCHES.get(value.casefold(), value) if isinstance(value, str) else value


# ------------------------------------------------------------------------------------------ files


def read_text(path: Path) -> str:
    """A file's text, from UTF-8 or, where its first bytes say so, UTF-16 or UTF-32.

    Raises ConfigError that says what it is instead.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file that can be read") from None
    if content.startswith(b"PK\x03\x04"):
        raise ConfigError(f"{path}: a zip file or an Excel workbook; save its table as CSV")
    # the marks of UTF-32 begin with those of UTF-16
    marks = {
        codecs.BOM_UTF32_LE: "utf-32",
        codecs.BOM_UTF32_BE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16",
        codecs.BOM_UTF16_BE: "utf-16",
        # written by Windows editors and spreadsheets
        codecs.BOM_UTF8: "utf-8-sig",
    }
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = (
            f"byte 0x{content[error.start]:02X} in line {line}" if encoding == "utf-8" else encoding
        )
        raise ConfigError(f"{path}: not a text file in UTF-8 ({found}); save it as UTF-8") from None
    if "\0" in text:
        raise ConfigError(
            f"{path}: not a text file in UTF-8 (it holds zero bytes, as UTF-16 does without its"
            " mark); save it as UTF-8"
        )
    return text


def _whole_text(text: str, refuse: Callable[[str], NoReturn]) -> str:
    """A text whose letters can be stored: halves of one letter joined, half letters refused."""
    if _SURROGATE.search(text):
        # JSON writes some letters as two halves
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    # bytes of file names that are no UTF-8 are such halves
    if "\0" in text or re.search("[\ud800-\udc7f\udd00-\udfff]", text):
        refuse(f"{text[:40]!r} holds a character that no text may have; write it otherwise")
    return text


# ------------------------------------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """Composes nodes only; what a plain scalar means is decided by `_Reader`."""


_PLAIN = "plain"
_Loader.yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))]}


def load_yaml(text: str, where: str, texts: Callable[[KeyPath], bool]) -> Any:
    """Plain data of a YAML text, by the rule above; keys are texts.

    where: what the text is, for messages. texts: whether the key at the end of a path takes text.
    Raises ConfigError naming `where` and the line.
    """
    reader = _Reader(where, texts)
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else reader.read(node, ())
    except yaml.reader.ReaderError as error:
        # the position is counted from what has been read, of a text from its start
        found = text[error.position : error.position + 1]
        reader.refuse(text.count("\n", 0, error.position) + 1, f"not YAML: no place for {found!r}")
    except yaml.MarkedYAMLError as error:
        reader.refuse(_line(error.problem_mark), f"not YAML: {_problem(error)}")
    except yaml.YAMLError as error:
        reader.refuse(None, f"not YAML: {' '.join(str(error).split())}")
    except RecursionError:
        reader.refuse(None, _TOO_DEEP)
    except (ValueError, OverflowError) as error:
        # an escape beyond the last letter, a version of a thousand digits
        line = None if loader is None else loader.line + 1
        reader.refuse(line, f"not YAML: {error}")


def _line(mark: yaml.Mark | None) -> int | None:
    return None if mark is None else mark.line + 1


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join(str(error.problem).split())
    if "'\\t'" in problem:
        return f"{problem}; indent with spaces, not with tabs"
    if "another document" in problem:
        return "a second document (---) begins; one file holds one"
    return problem


class _Reader:
    """Makes plain data of composed nodes."""

    def __init__(self, where: str, texts: Callable[[KeyPath], bool]) -> None:
        self._where = where
        self._texts = texts
        self._seen: set[int] = set()
        self._open: set[int] = set()
        self._repeated = 0

    def refuse(self, line: int | None, problem: str) -> NoReturn:
        at = "" if line is None else f", line {line}"
        raise ConfigError(f"{self._where}{at}: {problem}") from None

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        # an anchored node is one object wherever it is named
        self._repeated += id(node) in self._seen
        if self._repeated > _MOST_REPEATED:
            self._refuse_at(node, "repeats itself by its anchors beyond all measure; write it out")
        self._seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            self._refuse_at(node, "an anchor stands within itself; write it out")
        if len(self._open) >= _MOST_DEEP:
            self._refuse_at(node, _TOO_DEEP)
        self._open.add(id(node))
        made: Any
        if isinstance(node, yaml.MappingNode):
            made = self._mapping(node, path)
        else:
            self._known(node, "seq")
            made = [self.read(item, path) for item in node.value]
        self._open.discard(id(node))
        return made

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        self._known(node, "map")
        own: dict[str, Any] = {}
        lines: dict[str, int | None] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            merges = key == "<<" and key_node.tag == _PLAIN
            name = ".".join((*path, key))
            if name in lines:
                self._refuse_at(
                    key_node,
                    f"key {name!r} stands there twice, first in line {lines[name]}; keep one",
                )
            lines[name] = _line(key_node.start_mark)
            if merges:
                merged = self._merged(value_node, path)
            else:
                own[key] = self.read(value_node, (*path, key))
        return {**merged, **own}

    def _merged(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        """What `<<` brings: of several mappings an earlier one goes before a later one."""
        several = self.read(node, path)
        found: dict[str, Any] = {}
        for one in several[::-1] if isinstance(several, list) else [several]:
            if not isinstance(one, dict):
                self._refuse_at(node, "`<<` needs a mapping, as in `<<: *common`")
            found |= one
        return found

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self._refuse_at(node, "a key must be a word, not a list or a mapping")
        if node.tag not in (_PLAIN, _STR):
            self._refuse_at(node, f"key {node.value!r}: {node.tag} is not read; leave the tag out")
        return _whole_text(node.value, lambda problem: self._refuse_at(node, problem))

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text = _whole_text(node.value, lambda problem: self._refuse_at(node, problem))
        if node.tag == _PLAIN:
            if text in _NULLS:
                return None
            return text if self._texts(path) else _plain(text)
        if node.tag == _STR:
            return text
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        value = _plain(text)
        if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(value).__name__ != kind:
            self._refuse_at(node, f"{text[:40]!r} with the tag {node.tag}; leave the tag out")
        return value

    def _known(self, node: yaml.Node, kind: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{kind}":
            self._refuse_at(node, f"the tag {node.tag} is not read; leave it out")

    def _refuse_at(self, node: yaml.Node, problem: str) -> NoReturn:
        self.refuse(_line(node.start_mark), problem)


_STR = "tag:yaml.org,2002:str"


def _plain(text: str) -> Any:
    """What a plain scalar means where any value may stand."""
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.casefold() == "true"
    if _NO_NUMBER.fullmatch(text):
        return float(text.replace(".", "", 1))
    number = decimal(text)
    return text if number is None else number


class _Dumper(yaml.SafeDumper):
    """Short lists on one line; no text that any YAML reader would take for something else."""


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    if not math.isfinite(value):
        return dumper.represent_float(value)
    text = repr(value)
    if "e" in text and "." not in text:
        # else no number for readers of YAML 1.1
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    # other line ends than this one are folded away in all but double quotes
    style = '"' if re.search("[\r\x85\u2028\u2029]", value) else None
    return dumper.represent_scalar(_STR, value, style=style)


def _represent_list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


# the safe dumper quotes what readers of YAML 1.1 would take for something else; these go further
_Dumper.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"(?:{_DECIMAL.pattern})$"), list("-+.0123456789")
)
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?0[oO][0-7]+$|[-+]?0[xX][0-9a-fA-F]+$"), list("-+0")
)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("[yYnN]$"), list("yYnN"))
_Dumper.add_representer(float, _represent_float)
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)


def dump_yaml(data: Any, *, width: float = 100) -> str:
    """YAML of plain data, which any reader of YAML reads as it was."""
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)
    return str(text)


# ------------------------------------------------------------------------------------------- JSON


class _TwiceError(ValueError):
    """A key that stands in one object twice."""


def load_json(text: str, where: str) -> Any:
    """Plain data of a JSON text; numbers by the rule above, keys once. Raises ConfigError."""

    def refuse(problem: str) -> NoReturn:
        raise ConfigError(f"{where}: {problem}") from None

    try:
        data = json.loads(
            text, object_pairs_hook=_unique, parse_int=_json_number, parse_float=_json_number
        )
    except _TwiceError as error:
        key, line = str(error), _line_of_second(text)
        raise ConfigError(
            f"{where}, line {line}: key {key!r} stands there twice; keep one"
        ) from None
    except ValueError as error:
        refuse(f"not JSON: {error}; fix that place, or write it anew")
    except RecursionError:
        refuse(_TOO_DEEP)
    return _with_whole_texts(data, refuse)


def _json_number(text: str) -> int | float | str:
    number = decimal(text)
    return text if number is None else number


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(key)
        found[key] = value
    return found


def _line_of_second(text: str) -> int | None:
    """Where a key stands in its object for the second time. text: JSON that is whole."""
    stack: list[set[str] | None] = []
    tokens = [*re.finditer(r'"(?:[^"\\]|\\.)*"|[{}\[\]:]', text)]
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        if token[0] in "{[":
            stack.append(set() if token[0] == "{" else None)
        elif token[0] in "}]":
            stack.pop()
        elif after is not None and after[0] == ":" and stack and (keys := stack[-1]) is not None:
            key = json.loads(token[0])
            if key in keys:
                return text.count("\n", 0, token.start()) + 1
            keys.add(key)
    return None


def _with_whole_texts(data: Any, refuse: Callable[[str], NoReturn], depth: int = 0) -> Any:
    if isinstance(data, str):
        return _whole_text(data, refuse)
    if isinstance(data, (dict, list)) and depth >= _MOST_DEEP:
        refuse(_TOO_DEEP)
    if isinstance(data, dict):
        return {
            _whole_text(key, refuse): _with_whole_texts(item, refuse, depth + 1)
            for key, item in data.items()
        }
    if isinstance(data, list):
        return [_with_whole_texts(item, refuse, depth + 1) for item in data]
    return data
