"""The one configuration layout: sections of frozen, strictly checked values.

A person's file may hold any part of it. Every key is read by the trainer, unknown ones are refused
by name; how values are written stands in `trainer.notation`. Who wins: flags and `--set`, then a
preset named on the command line, then the file, then the defaults (`compose`).
"""

from __future__ import annotations

import copy
import difflib
import functools
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WrapValidator

from trainer import dice_schedule, lr_schedule, notation
from trainer.errors import ConfigError
from trainer.notation import KeyPath, decimal, dump_yaml, read_text, switch
from trainer.streams import shown
from trainer.translate import translate

Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]

if TYPE_CHECKING:
    # a computed Literal is no type to mypy
    DiceSchedule = LrSchedule = str
else:
    DiceSchedule = Literal[*dice_schedule.SCHEDULES]
    LrSchedule = Literal[*lr_schedule.SCHEDULES]


class _Section(BaseModel):
    # strict: "1.5" is not a number and 1.0 is not a count; whole numbers serve as floats
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ExperimentConfig(_Section):
    """Labels: shown in pictures and tables, without an effect on training."""

    name: str = ""
    description: str = ""


class ModelConfig(_Section):
    """The network: `lmsa` or `package.module:factory`."""

    name: str = "lmsa"
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15


def _any_path(value: Any, check: Callable[[Any], str]) -> str:
    # pydantic takes UTF-8 only, a folder's name may hold any byte
    return value if isinstance(value, str) and value != shown(value) else check(value)


class DataConfig(_Section):
    """Where faces come from and on which grid they are trained; sizes in pixels."""

    root: Annotated[str, Field(min_length=1), WrapValidator(_any_path)] = "synthetic"
    image_size: Annotated[int, Field(ge=16, le=4096)] = 64
    batch_size: Annotated[int, Field(ge=2)] = 8
    synthetic_images: Annotated[int, Field(ge=12)] = 500


class ColorJitterConfig(_Section):
    """Largest relative change; 0 leaves colours as they are."""

    brightness: Probability = 0.2
    contrast: Probability = 0.2
    saturation: Probability = 0.1


class AugmentationConfig(_Section):
    """Random changes of a batch; 0 (scale_range: 1 to 1) switches one off.

    horizontal_flip, crop, cutmix, erasing: probabilities. rotation: degrees. shift: share of the
    side. noise: standard deviation in units of the full colour range.
    """

    horizontal_flip: Probability = 0.5
    rotation: Annotated[float, Field(ge=0, le=180)] = 5.0
    scale_range: list[Positive] = Field(default=[0.95, 1.05], min_length=2, max_length=2)
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    crop: Probability = 0.0
    color_jitter: ColorJitterConfig = ColorJitterConfig()
    noise: Probability = 0.0
    cutmix: Probability = 0.0
    erasing: Probability = 0.0


class LossConfig(_Section):
    """ce_weight x CE + dice_weight x Dice, and optional terms."""

    ce_weight: NonNegative = 1.0
    dice_weight: NonNegative = 1.5
    dice_schedule: DiceSchedule = "constant"
    dice_ramp: float = 0.0
    dice_average: Literal["all", "present"] = "all"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lovasz_weight: NonNegative = 0.0
    aux_weight: NonNegative = 0.0


class SchedulerParams(_Section):
    """T_0: epochs of the first cycle, a fraction allowed; None: the whole budget (plain cosine)."""

    T_0: Positive | None = None
    T_mult: Annotated[int, Field(ge=1)] = 1
    eta_min: NonNegative = 1e-6


class TrainingConfig(_Section):
    """ema: horizon of the weight average as a share of an epoch, 0 for none.

    early_stopping_patience: epochs; "auto": the longer of T_0 and a third of the budget; None: off.
    """

    optimizer: Literal["AdamW"] = "AdamW"
    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 1e-4
    epochs: Annotated[int, Field(ge=1)] = 24
    scheduler: LrSchedule = "CosineAnnealingWarmRestarts"
    scheduler_params: SchedulerParams = SchedulerParams()
    warmup_epochs: NonNegative = 0.5
    max_grad_norm: NonNegative = 1.0
    ema: NonNegative = 0.5
    early_stopping_patience: Literal["auto"] | Annotated[int, Field(ge=1)] | None = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


def _known_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("auto, cpu, cuda or cuda:0 is needed")
    return name


class RuntimeConfig(_Section):
    """How it was computed. "auto" and None are decided at the start and recorded."""

    device: Annotated[str, AfterValidator(_known_device)] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    channels_last: bool | None = None
    micro_batch: Annotated[int, Field(ge=1)] | None = None


class Config(_Section):
    """Everything that a training needs; `search` is an export's record, which training ignores."""

    experiment: ExperimentConfig = ExperimentConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    search: dict[str, Any] | None = None

    @property
    def t_0_epochs(self) -> float:
        """Epochs of the first cycle."""
        t_0 = self.training.scheduler_params.T_0
        return float(self.training.epochs if t_0 is None else t_0)


# ---------------------------------------------------------------------------------------- checks


def config_from_dict(data: Mapping[str, Any], where: str = "config") -> Config:
    """A checked Config; what is not given takes its default.

    where: what the values came from, for messages.
    Raises ConfigError with one line that names the key, the value and the mend.
    """
    config = _validated(data, where)
    _check_together(config, where)
    return config


def _validated(data: Mapping[str, Any], where: str) -> Config:
    _refuse_unknown(data, where)
    try:
        return Config.model_validate(as_spelt(data)[0])
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: {_first_mistake(error)}") from None


def _refuse_unknown(data: Mapping[str, Any], where: str) -> None:
    tree = to_dict(Config())

    def walk(given: Any, known: Any, path: tuple[str, ...]) -> None:
        if not isinstance(known, dict) or path == ("search",):
            return
        dotted = ".".join(path) or "the file"
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where}: {dotted}: keys and values are needed, got {given!r}")
        for key, value in given.items():
            if key not in known:
                name = ".".join((*path, str(key)))
                raise ConfigError(f"{where}: unknown key {name!r}{_did_you_mean(name)}")
            walk(value, known[key], (*path, str(key)))

    walk(data, tree, ())


def _did_you_mean(name: str) -> str:
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


def _first_mistake(error: pydantic.ValidationError) -> str:
    # a union reports a mistake for each of its members: the last part of its path is not a key
    first = error.errors(include_url=False)[0]
    parts = [str(part) for part in first["loc"]]
    while len(parts) > 1 and not _is_key(parts):
        parts.pop()
    told = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(parts)}: {told}, got {first['input']!r}"


def _is_key(parts: Sequence[str]) -> bool:
    node: Any = to_dict(Config())
    for part in parts:
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _check_together(config: Config, where: str) -> None:
    low, high = config.augmentation.scale_range
    if low > high:
        raise ConfigError(
            f"{where}: augmentation.scale_range: [{low:g}, {high:g}] is upside down; smaller first"
        )
    loss, training = config.loss, config.training
    if loss.dice_schedule == "constant" and loss.dice_ramp != 0:
        *others, last = (name for name in dice_schedule.SCHEDULES if name != "constant")
        raise ConfigError(
            f"{where}: loss.dice_ramp: {loss.dice_ramp:g} does nothing under dice_schedule"
            f" constant; set dice_ramp: 0 or choose {', '.join(others)} or {last}"
        )
    if loss.dice_weight - abs(loss.dice_ramp) / 2 < 0:
        raise ConfigError(
            f"{where}: loss.dice_ramp: {loss.dice_ramp:g} around dice_weight {loss.dice_weight:g}"
            f" would make the Dice weight negative; stay within +-{2 * loss.dice_weight:g}"
        )
    if loss.ce_weight == 0 and loss.dice_weight == 0:
        raise ConfigError(
            f"{where}: loss.ce_weight and loss.dice_weight are both 0; nothing to learn"
        )
    t_0 = training.scheduler_params.T_0
    # a cycle given as a share of the budget carries rounding of its own
    if t_0 is not None and t_0 > training.epochs * (1 + 1e-9):
        raise ConfigError(
            f"{where}: training.scheduler_params.T_0: {t_0:g} epochs is longer than the budget of"
            f" {training.epochs} epochs; lower T_0 or raise training.epochs"
        )
    if training.scheduler_params.eta_min > training.learning_rate:
        raise ConfigError(
            f"{where}: training.scheduler_params.eta_min: {training.scheduler_params.eta_min:g} is"
            f" above learning_rate {training.learning_rate:g}; lower it"
        )
    if training.warmup_epochs >= training.epochs:
        raise ConfigError(
            f"{where}: training.warmup_epochs: {training.warmup_epochs:g} is not below the budget"
            f" of {training.epochs} epochs; lower it"
        )


# ------------------------------------------------------------------------------------------ names


@functools.cache
def _leaves() -> tuple[tuple[str, ...], ...]:
    def walk(node: dict[str, Any], path: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from walk(value, (*path, key))
            else:
                yield (*path, key)

    return tuple(path for path in walk(to_dict(Config()), ()) if path != ("search",))


def leaf_keys() -> list[str]:
    """Every key of the layout as `section.key`, in order; the record `search` left out."""
    return [".".join(path) for path in _leaves()]


def key_path(name: str) -> tuple[str, ...]:
    """The place of a key given by its last name (`T_0`) or as a whole (`model.name`).

    Raises ConfigError if there is none, or more than one.
    """
    parts = tuple(name.split("."))
    hits = [path for path in _leaves() if path[-len(parts) :] == parts]
    exact = [path for path in hits if path == parts]
    if exact:
        return exact[0]
    if len(hits) == 1:
        return hits[0]
    if hits:
        several = " or ".join(".".join(path) for path in hits)
        raise ConfigError(f"key {name!r} could be {several}; give the whole name")
    raise ConfigError(f"unknown key {name!r}{_did_you_mean(name)}")


def get(config: Config, name: str) -> Any:
    """The value of a key. Raises ConfigError if there is no such key."""
    node: Any = config
    for part in key_path(name):
        node = getattr(node, part)
    return node


def with_values(config: Config, values: Mapping[str, Any], where: str = "config") -> Config:
    """A config with some keys changed and all checked together. Raises ConfigError."""
    data = to_dict(config)
    for name, value in values.items():
        _put(data, key_path(name), value)
    return config_from_dict(data, where)


def _put(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
    data[path[-1]] = value


def _dig(data: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at a path of nested mappings, None where there is none."""
    node: Any = data
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def _field_types(name: str) -> set[type]:
    owner: type[BaseModel] = Config
    *sections, leaf = key_path(name)
    for section in sections:
        annotation = owner.model_fields[section].annotation
        assert isinstance(annotation, type)
        owner = annotation

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

    return set(flat(owner.model_fields[leaf].annotation))


def is_numeric(name: str) -> bool:
    """Whether a key takes a number, so that it can be given a range."""
    return bool(_field_types(name) & {int, float})


def is_integer(name: str) -> bool:
    """Whether a key takes whole numbers only."""
    types = _field_types(name)
    return int in types and float not in types


# ------------------------------------------------------------------------------------------- YAML


# what the record of an export tells in words
_RECORD_TEXTS = {"study", "study_uid", "metric", "preset", "command", "note", "name", "fingerprint"}


def takes_text(name: str) -> bool:
    """Whether a key takes text and nothing else; False where there is no such key."""
    try:
        return _field_types(name) == {str}
    except ConfigError:
        return False


def words_of(name: str) -> set[str]:
    """The words that a key takes beside numbers, such as auto."""
    owner: Any = Config
    for part in key_path(name):
        annotation = owner.model_fields[part].annotation
        owner = annotation
    words: set[str] = set()

    def walk(of: Any) -> None:
        for part in get_args(of):
            if isinstance(part, str):
                words.add(part)
            walk(part)

    walk(owner)
    return words


def _config_texts(path: KeyPath) -> bool:
    if path[:1] == ("search",):
        return path[-1] in _RECORD_TEXTS
    return path in _leaves() and takes_text(".".join(path))


def load_yaml(text: str, where: str, texts: Callable[[KeyPath], bool] = _config_texts) -> Any:
    """Plain data of a YAML text, by the rule of `trainer.notation`.

    texts: whether the key at the end of a path takes text; by default as in a config. Raises
    ConfigError naming `where` and the line.
    """
    return notation.load_yaml(text, where, texts)


def read_yaml(path: Path, texts: Callable[[KeyPath], bool] = _config_texts) -> Any:
    """Plain data of a YAML file, as `load_yaml`. Raises ConfigError if it cannot be read."""
    return load_yaml(read_text(path), str(path), texts)


def as_spelt(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A config's nested values with each text that spells what its key takes as that, and notes.

    Numbers in decimal, and yes, no, on, off. Other texts stay, for the check to refuse.
    """
    new = copy.deepcopy(dict(data))
    notes = []
    for path in _leaves():
        value = _dig(new, path)
        read = spelt(".".join(path), value)
        if type(read) is not type(value) or read != value:
            _put(new, path, read)
            kind = "true or false" if isinstance(read, bool) else "a number"
            notes.append(f"{'.'.join(path)}: the text {value!r} is now {kind}")
    return new, notes


def spelt(name: str, value: Any) -> Any:
    """A key's value, or what it spells where it is a text and the key takes none.

    Texts that spell nothing that it takes stay. Raises ConfigError if there is no such key.
    """
    if isinstance(value, list):
        return [item if isinstance(item, list) else spelt(name, item) for item in value]
    if not isinstance(value, str):
        return value
    types = _field_types(name)
    if bool in types:
        return switch(value)
    # a list has no types of its own: all there are hold numbers
    number = decimal(value) if not types or types & {int, float} else None
    return value if number is None else number


def read_raw(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A file's own keys in today's layout, unchecked, and what the translation changed.

    Raises ConfigError if the file cannot be read or does not hold sections.
    """
    data = read_yaml(path)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: sections such as `model:` are needed, got {str(data)[:60]!r}")
    return as_today(data)


def as_today(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Nested values of any age in today's layout, read as spelt; and a line per key touched."""
    today, notes = translate(data)
    spelt, more = as_spelt(today)
    return spelt, [*notes, *more]


def read_config(path: Path) -> tuple[Config, list[str]]:
    """A checked config from a file, and one line per key that was renamed or dropped."""
    data, notes = read_raw(path)
    return config_from_dict(data, str(path)), notes


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested data; loads again to an equal Config."""
    return config.model_dump(mode="python")


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


def value_text(value: Any) -> str:
    """A value as `key=value` takes it.

    >>> value_text(1e-4), value_text([0.9, 1.1]), value_text("1e-4"), value_text(None)
    ('0.0001', '[0.9, 1.1]', "'1e-4'", 'null')
    """
    # in a list, for a lone scalar is followed by an end mark
    return dump_yaml([value], width=math.inf).strip()[1:-1]


def to_yaml(config: Config, search: Mapping[str, Any] | None = None) -> str:
    """The config as YAML; `search` is written as the record of an export."""
    data = to_dict(config)
    data["search"] = dict(search) if search is not None else data["search"]
    if data["search"] is None:
        del data["search"]
    return dump_yaml(data)


# ------------------------------------------------------------------------------------- precedence


@dataclass(frozen=True)
class Composed:
    """A config, what a person should be told about how it came to be, and its preset's name."""

    config: Config
    notes: list[str] = field(default_factory=list)
    preset: str | None = None


def parse_set(text: str) -> tuple[str, Any]:
    """`key=value` with the value read as YAML. Raises ConfigError."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text!r} is not key=value, for example --set dice_weight=1.5")
    return name.strip(), read_value(name.strip(), value, f"--set {name.strip()}")


def read_value(name: str, text: str, where: str) -> Any:
    """A key's value from a flag, read as YAML; text that is not in quotes as it stands.

    where: the flag, for messages. Raises ConfigError.
    """
    if takes_text(name) and not text.strip().startswith(("'", '"')):
        return text.strip()
    return load_yaml(text, where)


def compose(
    *,
    file: Path | None = None,
    preset: str | None = None,
    default_preset: str | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    train_images: int | None = None,
    keep: Collection[str] = (),
) -> Composed:
    """The config to use: flags and --set, then a named preset, then the file, then defaults.

    flags: key -> value; None means that the flag is absent and overrides nothing.
    default_preset: fills what neither file nor flags give; only `preset` was asked for by name.
    train_images: size of the training part; a preset's steps become epochs by it.
    keep: searched or fixed keys, which stay the file's under a preset.
    Raises ConfigError.
    """
    from trainer.presets import preset_values

    notes: list[str] = []
    from_file: dict[str, Any] = {}
    if file is not None:
        from_file, notes = read_raw(file)
        config_from_dict(from_file, str(file))  # a mistake is told by the file's name
    over: dict[tuple[str, ...], Any] = {}
    for name, value in (flags or {}).items():
        if value is not None:
            over[key_path(name)] = value
    for text in sets:
        name, value = parse_set(text)
        over[key_path(name)] = value
    over = _checked(over)

    root = over.get(("data", "root")) or _dig(from_file, ("data", "root")) or "synthetic"
    data = copy.deepcopy(from_file)
    named = preset or default_preset
    if named is not None:
        batch = over.get(("data", "batch_size"))
        if preset is None:
            batch = batch or _dig(from_file, ("data", "batch_size"))
        values = preset_values(named, root=str(root), train_images=train_images, batch_size=batch)
        kept = {key_path(name) for name in (*keep, *_searched(from_file))}
        if preset is not None:
            notes += _impose(data, from_file, named, values, kept, over)
        else:
            for name, value in values.items():
                path = key_path(name)
                if _dig(data, path) is None:
                    _put(data, path, value)
    for path, value in over.items():
        _put(data, path, value)
    return Composed(config_from_dict(data, "config"), notes, named)


def _checked(over: Mapping[tuple[str, ...], Any]) -> dict[tuple[str, ...], Any]:
    """Flags' values as their keys take them: a preset computes with some of them."""
    alone: dict[str, Any] = {}
    for path, value in over.items():
        _put(alone, path, value)
    _validated(alone, "config")
    return {path: spelt(".".join(path), value) for path, value in over.items()}


def _searched(data: Mapping[str, Any]) -> list[str]:
    record = data.get("search") or {}
    parts = [record.get(name) for name in ("searched", "fixed")]
    # lists and mappings of names, unless somebody has been at it
    return [str(name) for part in parts if isinstance(part, (list, dict)) for name in part]


def _impose(
    data: dict[str, Any],
    from_file: Mapping[str, Any],
    preset: str,
    values: Mapping[str, Any],
    kept: Collection[tuple[str, ...]],
    over: Mapping[tuple[str, ...], Any],
) -> list[str]:
    """Put a named preset's values over the file's, in place; returns `key: old -> new` lines."""
    notes = []
    if data.pop("runtime", None) is not None:
        notes.append(f"preset {preset}: the file's runtime section is dropped")
    for name, value in values.items():
        path = key_path(name)
        if path in kept:
            continue
        old = _dig(data, path)
        _put(data, path, value)
        if old is not None and old != value and path not in over:
            notes.append(f"preset {preset}: {'.'.join(path)}: {old} -> {value}")
    old_epochs = _dig(from_file, ("training", "epochs"))
    old_t_0 = _dig(from_file, ("training", "scheduler_params", "T_0"))
    t_0 = ("training", "scheduler_params", "T_0")
    if old_t_0 is not None and t_0 not in over:
        before = old_epochs or Config().training.epochs
        after = over.get(("training", "epochs")) or data["training"]["epochs"]
        share = old_t_0 * after / before
        new = round(share) if math.isclose(share, round(share), abs_tol=1e-9) else share
        if new != old_t_0:
            _put(data, t_0, new)
            notes.append(
                f"preset {preset}: {'.'.join(t_0)}: {old_t_0} -> {new:g}"
                " (the same number of cycles)"
            )
    return notes
