"""The one configuration layout: sections of frozen, strictly checked values.

A user's file may hold any part of it. Every key is read by the trainer, unknown ones are refused by
name; how values are written stands in `trainer.notation`. `sections` holds the layout, `keys` what
is known of a key by its name, `checks` makes a Config of plain values, `files` reads and writes
YAML, `compose` says who wins: flags, a named preset, the file, the defaults.
"""

from trainer.config.checks import config_from_dict, with_values
from trainer.config.compose import Composed, compose, parse_set, read_value
from trainer.config.files import (
    as_today,
    load_yaml,
    read_config,
    read_yaml,
    to_yaml,
    value_text,
)
from trainer.config.keys import (
    base_identity,
    get,
    is_integer,
    is_numeric,
    key_path,
    leaf_keys,
    spelt,
    takes_text,
    words_of,
)
from trainer.config.sections import Config, RuntimeConfig, to_dict

__all__ = [
    "Composed",
    "Config",
    "RuntimeConfig",
    "as_today",
    "base_identity",
    "compose",
    "config_from_dict",
    "get",
    "is_integer",
    "is_numeric",
    "key_path",
    "leaf_keys",
    "load_yaml",
    "parse_set",
    "read_config",
    "read_value",
    "read_yaml",
    "spelt",
    "takes_text",
    "to_dict",
    "to_yaml",
    "value_text",
    "with_values",
    "words_of",
]
