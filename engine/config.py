"""What a run is: a strict, frozen tree of settings, read from a YAML recipe and `key=value` overrides.

Every default stands here once. The resolved tree is saved with the run and is enough to resume it.
"""

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from viewmill.engine.catalogue import catalogue
from viewmill.engine.config_errors import told
from viewmill.engine.faults.limits import FaultsConfig
from viewmill.engine.loss_scale import LossScaleConfig
from viewmill.engine.method_config import HydesConfig, MethodConfig
from viewmill.engine.optimizer_config import AdamWConfig, OptimizerConfig
from viewmill.engine.recipe_file import apply_override, find_recipe, read_mapping, shipped_recipes
from viewmill.engine.strict import ConfigError, StrictModel
from viewmill.engine.trackers.settings import MlflowConfig, WandbConfig

__all__ = [
    "ConfigError",
    "RunConfig",
    "StrictModel",
    "config_from",
    "load_config",
    "save_config",
]


class ModelConfig(StrictModel):
    """The backbone."""

    backbone: str = "resnet18"  # a timm name
    stem: Literal["imagenet", "small"] = "imagenet"  # small: 3 x 3 convolution, no pooling; ResNets only
    # A safetensors file that a new run begins with: timm's names, or all weights of a student. None: drawn.
    weights: str | None = None
    channels_last: bool = False  # memory layout of the weights and views, for convolutional nets
    # Keeps of each block of the backbone its input alone, and computes it a second time in the backward.
    checkpoint_activations: bool = False
    compile: bool = (
        False  # the student's backbone by torch.compile; needs a C++ compiler or a GPU with Triton
    )
    # What a BatchNorm sees at once, see `Student`; None: the method's own choice.
    batchnorm_views: Literal["all", "size", "view"] | None = None

    @model_validator(mode="after")
    def compiles_or_recomputes(self) -> "ModelConfig":
        if self.compile and self.checkpoint_activations:
            raise ValueError(
                "model.compile and model.checkpoint_activations exclude each other: a compiled backbone "
                "decides by itself what it computes again; set one of them to false"
            )
        return self


class DataConfig(StrictModel):
    """Which samples of the data set are trained on; both None: all."""

    subset: str | None = None  # a file of ids: .npy, or text with one a line
    max_per_class: int | None = Field(default=None, ge=1)  # chosen by the run's seed; smaller ones are nested


class ViewsConfig(StrictModel):
    """From shards to views: what is drawn, and who renders it."""

    preset: str | None = None  # NAME or NAME@S; None: the method's own
    executor: str = "auto"
    num_threads: int = Field(default=2, ge=1)  # of the executor, per rank
    prefetch: int = Field(default=2, ge=1)  # micro-batches rendered ahead; at least those of a step
    max_ahead_bytes: int = Field(default=4 << 30, ge=1)  # of encoded images and views ahead, per rank
    block: int = Field(default=1, ge=1)  # samples that stay neighbours in the order
    window: int = Field(default=0, ge=0)  # samples shuffled after the blocks; 0: none
    # Different unusable samples that are replaced before the run stops; below 1, as 0.001: their share.
    max_substitutes: int | float = Field(default=100, ge=0)


class ScheduleConfig(StrictModel):
    """Learning rate: linear warm-up, then half a cosine down to a floor, or constant."""

    warmup_epochs: float = Field(default=0.0, ge=0)
    final_lr_fraction: float = Field(default=0.0, ge=0, le=1)  # the floor, as a share of the peak
    final_lr: float | None = Field(default=None, ge=0)  # or as it is
    constant: bool = False  # stay at the peak after the warm-up

    @model_validator(mode="after")
    def one_end(self) -> "ScheduleConfig":
        given = {"final_lr_fraction": self.final_lr_fraction, "final_lr": self.final_lr is not None}
        ends = [name for name, is_given in (given | {"constant": self.constant}).items() if is_given]
        if len(ends) > 1:
            raise ValueError(f"{ends[0]} and {ends[1]} are two ends of one schedule; leave one of them out")
        return self

    def floor(self, peak: float) -> float:
        """Where the learning rate ends."""
        if self.constant:
            return peak
        return peak * self.final_lr_fraction if self.final_lr is None else self.final_lr


class ZeroConfig(StrictModel):
    """What DeepSpeed splits over the ranks: 0 nothing, 1 optimiser state, 2 gradients, 3 weights too."""

    stage: int = Field(default=0, ge=0, le=3)
    # A rank's share of weights in float32 and of optimiser state lies in the host's memory, and moves there.
    offload_optimizer: bool = False

    @model_validator(mode="after")
    def stage_0_has_no_shares(self) -> "ZeroConfig":
        if self.offload_optimizer and self.stage == 0:
            raise ValueError(
                "zero.offload_optimizer needs zero.stage=1, 2 or 3; stage 0 has no shares to move"
            )
        return self


class CheckpointConfig(StrictModel):
    """When to write a checkpoint (one is always written at the end), and how many to keep."""

    every_epochs: int | None = Field(default=1, ge=1)
    every_steps: int | None = Field(default=None, ge=1)
    keep: int = Field(default=2, ge=1)  # the newest ones
    keep_every_epochs: int | None = Field(default=None, ge=1)  # and, for good, those of every so many epochs
    keep_every_steps: int | None = Field(default=None, ge=1)
    background: bool = True  # written out of a copy while training goes on; the last one is not


class EvaluationConfig(StrictModel):
    """How the backbone is judged while it is trained, where labelled images to judge it by are given."""

    every_epochs: int = Field(default=1, ge=1)
    # k-NN first; the first one says which checkpoint is the best. Not strict: YAML gives a list.
    tasks: tuple[str, ...] = Field(default=("knn@20",), strict=False, min_length=1)


class LogConfig(StrictModel):
    """How often a metrics line is written."""

    every_steps: int = Field(default=10, ge=1)
    tensorboard: bool = True
    # A file that is replaced with every line, for Prometheus's collector of text files: it ends in .prom.
    prometheus: str | None = Field(default=None, pattern=r"\.prom$")
    # The same numbers at these services; each needs the extra of its name.
    wandb: WandbConfig | None = None
    mlflow: MlflowConfig | None = None


class ProfileConfig(StrictModel):
    """Which steps torch's profiler watches."""

    # The first and the last one, as metrics.jsonl counts them. Not strict: YAML gives a list.
    steps: tuple[int, int] | None = Field(default=None, strict=False)

    @field_validator("steps")
    @classmethod
    def steps_are_a_range(cls, steps: tuple[int, int] | None) -> tuple[int, int] | None:
        if steps is not None and not 1 <= steps[0] <= steps[1]:
            raise ValueError(
                f"profile.steps are the first and the last step, counted from 1, got {list(steps)}"
            )
        return steps


class RunConfig(StrictModel):
    """One training run."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)  # B, of one optimiser step over all ranks
    accumulation: int = Field(default=1, ge=1)  # A: a rank's micro-batches of a step, one in memory at a time
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # the half types keep float32 master weights
    loss_scale: LossScaleConfig = LossScaleConfig()  # of fp16
    # What the loss takes embeddings in: float32, or the network's own type, which Triton's kernels multiply.
    loss_precision: Literal["float32", "model"] = "float32"
    torch_threads: int | None = Field(
        default=None, ge=1
    )  # of a rank's torch operators; None: as the launcher set it
    max_steps: int | None = Field(default=None, ge=1)  # stop before `epochs`; the schedule does not change
    nonfinite_limit: int = Field(default=5, ge=1)  # skipped steps in a row that end the run
    model: ModelConfig = ModelConfig()
    method: MethodConfig = HydesConfig()
    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    optimizer: OptimizerConfig = AdamWConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    zero: ZeroConfig = ZeroConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    faults: FaultsConfig = FaultsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    profile: ProfileConfig = ProfileConfig()

    @model_validator(mode="after")
    def the_floor_lies_below_the_peak(self) -> "RunConfig":
        end, peak = self.schedule.final_lr, self.optimizer.lr
        if end is not None and end > peak:
            raise ValueError(f"schedule.final_lr {end} is above optimizer.lr {peak}; the rate falls to it")
        return self

    @model_validator(mode="after")
    def stage_3_compiles_nothing(self) -> "RunConfig":
        # Its hooks let weights come and go, layer by layer, which a compiled graph does not see.
        if self.zero.stage == 3 and self.model.compile:
            raise ValueError("model.compile does not work with zero.stage=3; set zero.stage to 2 or less")
        return self

    @model_validator(mode="after")
    def loss_scale_has_an_effect(self) -> "RunConfig":
        if self.precision != "fp16" and self.loss_scale != LossScaleConfig():
            raise ValueError(
                f"loss_scale changes nothing at precision={self.precision}; leave it out, or set "
                "precision=fp16"
            )
        if self.precision == "fp16" and self.loss_precision == "model":
            raise ValueError(
                "loss_precision=model at precision=fp16: the loss's own gradient is not scaled, and float16 "
                "would lose it; leave it at float32"
            )
        return self

    @model_validator(mode="after")
    def loss_precision_has_an_effect(self) -> "RunConfig":
        if self.loss_precision == "model" and (self.precision == "fp32" or self.method.name == "distill"):
            why = "precision=fp32" if self.precision == "fp32" else "the head of method.name=distill"
            raise ValueError(
                f"loss_precision=model changes nothing: {why} gives float32 already; leave it at float32"
            )
        return self


def load_config(recipe: Path | str, overrides: list[str] | None = None) -> RunConfig:
    """The recipe's settings with the `key=value` overrides on top.

    Args:
        recipe: a YAML file, or the bare name of a recipe that comes with Viewmill, or of a row of the papers'
            tables (`catalogue`), which has overrides of its own.
        overrides: `optimizer.lr=1e-3` and the like; values are YAML, the last one wins.

    Raises:
        ConfigError: the recipe is not there or no mapping, or a key or value is wrong (all are listed).
    """
    path, own = resolve_recipe(recipe)
    tree = read_mapping(path)
    for override in [*own, *(overrides or [])]:
        apply_override(tree, override)
    return config_from(tree, where=str(recipe))


def resolve_recipe(recipe: Path | str) -> tuple[Path, tuple[str, ...]]:
    """The file behind a path, a recipe's name or a row's name, and the row's overrides.

    Raises:
        ConfigError: there is none.
    """
    path = find_recipe(recipe)
    if path is not None:
        return path, ()
    row = catalogue().get(str(recipe))
    if row is not None:
        return shipped_recipes()[row.recipe], row.overrides
    known = ", ".join(shipped_recipes())
    near = difflib.get_close_matches(str(recipe), catalogue(), n=1, cutoff=0.8)
    hint = f" such as {near[0]}" if near else ""
    raise ConfigError(
        f"{recipe}: no such recipe; give the path of a YAML file, or one of: {known}; "
        f"or a row of the papers' tables{hint}, which viewmill recipes lists"
    )


def config_from(tree: dict[str, Any], where: str) -> RunConfig:
    """RunConfig of a plain tree; `where` opens the error message."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(told(RunConfig, error))) from None


def save_config(config: RunConfig, path: Path) -> None:
    """Every setting, defaults included, as YAML that load_config reads back to an equal config."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
