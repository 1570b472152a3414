"""Files written for the user's old trainer, in today's layout.

The old trainer ignored keys that it did not read, so a note says for each key what becomes of it.
A file without any old key passes through untouched.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from trainer.config.keys import dig, put
from trainer.notation import KeyPath, decimal, switch

# old key -> (new key, what the note adds)
_RENAMED: dict[KeyPath, tuple[KeyPath, str]] = {
    ("gpu_augmentation", "horizontal_flip_prob"): (
        ("augmentation", "horizontal_flip"),
        "augmentation always runs on the training device",
    ),
    ("gpu_augmentation", "rotation_degrees"): (("augmentation", "rotation"), "degrees, as before"),
    ("gpu_augmentation", "brightness"): (
        ("augmentation", "color_jitter", "brightness"),
        "one section for all augmentation",
    ),
    ("gpu_augmentation", "contrast"): (
        ("augmentation", "color_jitter", "contrast"),
        "one section for all augmentation",
    ),
    ("gpu_augmentation", "saturation"): (
        ("augmentation", "color_jitter", "saturation"),
        "one section for all augmentation",
    ),
    ("training", "cutmix_prob"): (("augmentation", "cutmix"), "CutMix is an augmentation"),
}
_ADVANCED = "a switch; the probability alone decides"
_FOCAL = "focal loss brought nothing where it was measured, and is not offered"
_DROPPED: dict[KeyPath, str] = {
    ("output_dir",): "say --out instead",
    ("data", "num_workers"): "pictures are decoded once into a shared cache; no loader processes",
    ("data", "val_split"): "the split is val.txt, else 10 % by hash of the file name",
    ("model", "num_classes"): "always the 19 classes of CelebAMask-HQ",
    ("model", "use_lmsa"): "multi-scale attention is part of the network lmsa",
    ("loss", "use_class_weights"): "class weights brought nothing where they were measured",
    ("loss", "use_focal"): _FOCAL,
    ("loss", "focal_alpha"): _FOCAL,
    ("loss", "focal_gamma"): _FOCAL,
    ("training", "use_gpu_augmentation"): "augmentation always runs on the training device",
    ("training", "use_advanced_aug"): _ADVANCED,
    ("training", "use_cutmix"): _ADVANCED,
    ("training", "use_mixup"): "MixUp is not offered: a mask has no mixed class",
    ("training", "mixup_prob"): "MixUp is not offered: a mask has no mixed class",
    ("training", "mixup_alpha"): "MixUp is not offered: a mask has no mixed class",
    ("training", "cutmix_alpha"): "the pasted area is drawn evenly",
}
# values of the old layout under keys that are still there
_MODEL: KeyPath = ("model", "name")
_OLD_MODEL = "microsegformer"
_SCHEDULER: KeyPath = ("training", "scheduler")
_OLD_SCHEDULER = "CosineAnnealingLR"
_PATIENCE: KeyPath = ("training", "early_stopping_patience")
_OFF_PATIENCE = 999
_AMP: KeyPath = ("training", "use_amp")


def _has(data: Mapping[str, Any], path: KeyPath) -> bool:
    node: Any = data
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _has_room(data: Mapping[str, Any], path: KeyPath) -> bool:
    """Whether a value can be put at a path: every section on the way is one, or is missing."""
    node: Any = data
    for part in path[:-1]:
        node = node.get(part, {})
        if not isinstance(node, dict):
            return False
    return True


def _pop(data: dict[str, Any], path: KeyPath) -> Any:
    node = dig(data, path[:-1])
    return node.pop(path[-1])


def _is_old(data: Mapping[str, Any]) -> bool:
    return (
        any(_has(data, path) for path in (*_RENAMED, *_DROPPED, _AMP))
        or dig(data, _MODEL) == _OLD_MODEL
        or dig(data, _SCHEDULER) == _OLD_SCHEDULER
    )


def translate(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Old keys renamed or dropped: the data in today's layout, one line per key touched.

    Unknown keys that the old trainer did not have either are left for the check to refuse.
    """
    new: dict[str, Any] = copy.deepcopy(dict(data))
    if not _is_old(new):
        return new, []
    notes: list[str] = []

    for path, (target, why) in _RENAMED.items():
        # a section that is none is left for the check
        if _has(new, path) and _has_room(new, target):
            put(new, target, _pop(new, path))
            notes.append(f"{'.'.join(path)} is now {'.'.join(target)}: {why}")
    for path, reason in _DROPPED.items():
        if _has(new, path):
            notes.append(f"{'.'.join(path)}: {_pop(new, path)!r} is dropped: {reason}")
    if new.get("gpu_augmentation") == {}:
        del new["gpu_augmentation"]

    if dig(new, _MODEL) == _OLD_MODEL:
        put(new, _MODEL, "lmsa")
        notes.append(f"model.name: {_OLD_MODEL} is now lmsa: another network, under the same cap")
    precision_key = ("runtime", "precision")
    # another word than yes or no is left for the check
    readable = _has(new, _AMP) and not isinstance(switch(dig(new, _AMP)), str)
    if readable and _has_room(new, precision_key):
        precision = "auto" if switch(_pop(new, _AMP)) else "float32"
        put(new, precision_key, precision)
        notes.append(f"training.use_amp is now runtime.precision: {precision}")
    if dig(new, _SCHEDULER) == _OLD_SCHEDULER:
        put(new, _SCHEDULER, "CosineAnnealingWarmRestarts")
        notes.append(
            f"training.scheduler: {_OLD_SCHEDULER} is now CosineAnnealingWarmRestarts with T_0 ="
            " epochs: the same curve"
        )
    value = dig(new, _PATIENCE)
    epochs = decimal(value) if isinstance(value, str) else value
    if isinstance(epochs, int) and epochs >= _OFF_PATIENCE:
        put(new, _PATIENCE, None)
        notes.append(f"training.early_stopping_patience: {value} is now null: off")
    return new, notes
