"""The one configuration layout: sections of frozen, strictly checked values.

A user's file may hold any part of it. Every key is read by the trainer, unknown ones are refused by
name; how values are written stands in `trainer.notation`. `sections` holds the layout, `keys` what
is known of a key by its name, `checks` makes a Config of plain values, `files` reads and writes
YAML, `old_files` translates what was written for the user's old trainer, and `precedence` says who
wins: flags, a named preset, the file, the defaults.
"""

from trainer.config.checks import config_from_dict as config_from_dict
from trainer.config.checks import with_values as with_values
from trainer.config.files import as_today as as_today
from trainer.config.files import load_yaml as load_yaml
from trainer.config.files import read_config as read_config
from trainer.config.files import read_yaml as read_yaml
from trainer.config.files import to_yaml as to_yaml
from trainer.config.files import value_text as value_text
from trainer.config.keys import base_identity as base_identity
from trainer.config.keys import get as get
from trainer.config.keys import is_integer as is_integer
from trainer.config.keys import is_numeric as is_numeric
from trainer.config.keys import key_path as key_path
from trainer.config.keys import leaf_keys as leaf_keys
from trainer.config.keys import spelt as spelt
from trainer.config.keys import takes_text as takes_text
from trainer.config.keys import words_of as words_of
from trainer.config.precedence import compose as compose
from trainer.config.precedence import parse_set as parse_set
from trainer.config.precedence import read_value as read_value
from trainer.config.sections import Config as Config
from trainer.config.sections import to_dict as to_dict
