"""The door to every network: `lmsa`, or any other by the name of its factory, checked."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainer.config import Config
from trainer.data.classes import NUM_CLASSES
from trainer.errors import ConfigError
from trainer.lmsa import Lmsa

# the course's own cap on trainable and fixed parameters together
MAX_PARAMETERS = 1_821_085


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, trainable or not; buffers such as running means do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def imported(name: str) -> Callable[[int, float], object]:
    """The factory that a `package.module:factory` names. Raises ConfigError."""
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, but what it imports is not: its author needs to see where
        raise ConfigError(
            f"model.name: {name!r}: no module {module_name!r} on the path;"
            " run from the folder that holds it, or install it"
        ) from error
    except AttributeError as error:
        raise ConfigError(
            f"model.name: {name!r}: module {module_name!r} has no {attribute!r}"
        ) from error
    if not callable(factory):
        raise ConfigError(f"model.name: {name!r} is not callable; name a factory or a class")
    return factory


def _has_active_dropout(model: nn.Module) -> bool:
    return any(
        isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        for module in model.modules()
    )


def _check(model: nn.Module, name: str, dropout: float) -> None:
    """Refuse what cannot be trained and compared: size, dropout, shape of the result."""
    count = parameter_count(model)
    if count > MAX_PARAMETERS:
        raise ConfigError(
            f"model {name!r} has {count:,} parameters, the cap is {MAX_PARAMETERS:,};"
            " make it narrower (model.width)"
        )
    for key, value in model.named_parameters():
        if value.dtype != torch.float32:
            raise ConfigError(
                f"model {name!r}: parameter {key!r} is {value.dtype}; float32 is needed, and"
                " runtime.precision chooses what is computed with"
            )
    if dropout > 0 and not _has_active_dropout(model):
        raise ConfigError(
            f"model {name!r} has no active nn.Dropout module although model.dropout is {dropout:g}:"
            " the parameter would do nothing; fix dropout=0"
        )
    was_training = model.training
    model.eval()  # in training mode the probe would move the running means
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, 64, 64))
    model.train(was_training)
    expected = (1, NUM_CLASSES, 64, 64)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"model {name!r} gives {found} for a picture (1, 3, 64, 64);"
            f" logits of shape {expected} are needed"
        )


def build_model(name: str, *, width: float, dropout: float, aux: bool = False) -> nn.Module:
    """A checked model with fresh weights, on the CPU, in training mode.

    name: `lmsa`, or `package.module:factory` with `factory(num_classes, dropout) -> nn.Module`.
    width: share of the full channel counts (lmsa only); dropout: probability in [0, 1).
    aux: auxiliary logits in training mode (lmsa only).
    The model maps float [B, 3, H, W] to logits [B, 19, H, W].
    Raises ConfigError if the name is unknown, the model is over MAX_PARAMETERS, its result has
    another shape, or it would ignore the dropout.
    """
    model: object
    if name == "lmsa":
        model = Lmsa(width=width, dropout=dropout, num_classes=NUM_CLASSES, aux=aux)
    elif ":" in name:
        if aux:
            raise ConfigError(
                f"loss.aux_weight: model {name!r} has no auxiliary heads; set aux_weight: 0"
            )
        model = imported(name)(NUM_CLASSES, dropout)
    else:
        raise ConfigError(f"model.name: {name!r} is neither 'lmsa' nor 'package.module:factory'")
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model.name: {name!r} returned a {type(model).__name__}, not a torch nn.Module"
        )
    _check(model, name, dropout)
    return model


def model_of(config: Config) -> nn.Module:
    """The network that a config names, with fresh weights. Raises as `build_model` does."""
    return build_model(
        config.model.name,
        width=config.model.width,
        dropout=config.model.dropout,
        aux=config.loss.aux_weight > 0,
    )
