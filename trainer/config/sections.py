"""The sections of a configuration: frozen values, each checked by itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WrapValidator

from trainer import dice_schedule, lr_schedule
from trainer.streams import shown

Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]

if TYPE_CHECKING:
    # a computed Literal is no type to mypy
    DiceSchedule: TypeAlias = str
    LrSchedule: TypeAlias = str
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
    cuda_graph: bool = True
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


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested data; loads again to an equal Config."""
    return config.model_dump(mode="python")
