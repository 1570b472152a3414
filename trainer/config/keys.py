"""Names of keys, what they take, and values by name."""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, get_args

from trainer.config.sections import Config, to_dict
from trainer.errors import ConfigError
from trainer.notation import decimal, switch


@functools.cache
def leaf_paths() -> tuple[tuple[str, ...], ...]:
    def walk(node: dict[str, Any], path: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from walk(value, (*path, key))
            else:
                yield (*path, key)

    return tuple(path for path in walk(to_dict(Config()), ()) if path != ("search",))


def leaf_keys() -> list[str]:
    """Every key of the layout as `section.key`, in order; the record `search` left out."""
    return [".".join(path) for path in leaf_paths()]


def key_path(name: str) -> tuple[str, ...]:
    """The place of a key given by its last name (`T_0`) or as a whole (`model.name`).

    Raises ConfigError if there is none, or more than one.
    """
    parts = tuple(name.split("."))
    hits = [path for path in leaf_paths() if path[-len(parts) :] == parts]
    exact = [path for path in hits if path == parts]
    if exact:
        return exact[0]
    if len(hits) == 1:
        return hits[0]
    if hits:
        several = " or ".join(".".join(path) for path in hits)
        raise ConfigError(f"key {name!r} could be {several}; give the whole name")
    raise ConfigError(f"unknown key {name!r}{did_you_mean(name)}")


def did_you_mean(name: str) -> str:
    known = leaf_keys()
    leaf = name.rsplit(".", 1)[-1]
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in known}
    near = [key for key in known if key.rsplit(".", 1)[-1] == leaf]
    # a name without its section is no nearer to one that is as short
    near += difflib.get_close_matches(name, known, n=1, cutoff=0.6) if "." in name else []
    near += [by_leaf[hit] for hit in difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.5)]
    return (
        f"; did you mean {near[0]!r}?" if near else "; see trainer/README.md for the keys there are"
    )


def get(config: Config, name: str) -> Any:
    """The value of a key. Raises ConfigError if there is no such key."""
    node: Any = config
    for part in key_path(name):
        node = getattr(node, part)
    return node


def put(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
    data[path[-1]] = value


def dig(data: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at a path of nested mappings, None where there is none."""
    node: Any = data
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def _annotation(name: str) -> Any:
    """The type that a key is declared with."""
    owner: Any = Config
    for part in key_path(name):
        owner = owner.model_fields[part].annotation
    return owner


def field_types(name: str) -> set[type]:
    def flat(annotation: Any) -> Iterable[type]:
        inner = get_args(annotation)
        if isinstance(annotation, type) and not inner:
            yield annotation
        elif isinstance(annotation, str):
            # one of several words
            yield str
        elif getattr(annotation, "__origin__", None) is not list:
            for part in inner:
                yield from flat(part)

    return set(flat(_annotation(name)))


def is_numeric(name: str) -> bool:
    """Whether a key takes a number, so that it can be given a range."""
    return bool(field_types(name) & {int, float})


def is_integer(name: str) -> bool:
    """Whether a key takes whole numbers only."""
    types = field_types(name)
    return int in types and float not in types


def takes_text(name: str) -> bool:
    """Whether a key takes text and nothing else; False where there is no such key."""
    try:
        return field_types(name) == {str}
    except ConfigError:
        return False


def words_of(name: str) -> set[str]:
    """The words that a key takes beside numbers, such as auto."""
    words: set[str] = set()

    def walk(of: Any) -> None:
        for part in get_args(of):
            if isinstance(part, str):
                words.add(part)
            walk(part)

    walk(_annotation(name))
    return words


def spelt(name: str, value: Any) -> Any:
    """A key's value, or what it spells where it is a text and the key takes none.

    Texts that spell nothing that it takes stay. Raises ConfigError if there is no such key.
    """
    if isinstance(value, list):
        return [item if isinstance(item, list) else spelt(name, item) for item in value]
    if not isinstance(value, str):
        return value
    types = field_types(name)
    if bool in types:
        return switch(value)
    # a list has no types of its own: all there are hold numbers
    number = decimal(value) if not types or types & {int, float} else None
    return value if number is None else number


def as_spelt(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A config's nested values with each text that spells what its key takes as that, and notes.

    Numbers in decimal, and yes, no, on, off. Other texts stay, for the check to refuse.
    """
    new = copy.deepcopy(dict(data))
    notes = []
    for path in leaf_paths():
        value = dig(new, path)
        read = spelt(".".join(path), value)
        if type(read) is not type(value) or read != value:
            put(new, path, read)
            kind = "true or false" if isinstance(read, bool) else "a number"
            notes.append(f"{'.'.join(path)}: the text {value!r} is now {kind}")
    return new, notes


def base_identity(config: Config, without: Collection[str]) -> dict[str, Any]:
    """What makes two studies the same: all but `without`, experiment, runtime and search.

    without: names of searched or fixed keys.
    """
    data = to_dict(config)
    for section in ("experiment", "runtime", "search"):
        del data[section]
    for name in without:
        *sections, leaf = key_path(name)
        node = data
        for section in sections:
            node = node[section]
        del node[leaf]
    return data
