"""The settings of each optimiser. `optimizer.name` says which one it is; a recipe without it means AdamW."""

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator
from viewmill.engine.scheduled import MomentumScheduled, WeightScheduled, numbers_of
from viewmill.engine.strict import StrictModel, chosen_by

# The share of the next layer's learning rate that each layer of the backbone has; the head has all of it.
LayerDecay = Annotated[float, Field(gt=0, le=1)]


class AdamWConfig(StrictModel):
    """AdamW; weight decay, which may follow a schedule, spares biases and norms."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(default=1.0e-3, gt=0)  # peak, reached after the warm-up
    weight_decay: WeightScheduled = 1.0e-4
    # Not strict: YAML gives a list, which a strict tuple refuses.
    betas: tuple[float, float] = Field(default=(0.9, 0.999), strict=False)
    eps: float = Field(default=1.0e-8, gt=0)
    clip_grad_norm: float = Field(default=0.0, ge=0)  # 0: no clipping
    layer_decay: LayerDecay = 1.0


class SGDConfig(StrictModel):
    """SGD as torch has it: the decay is added to the gradient, and momentum is summed from there."""

    name: Literal["sgd"]
    lr: float = Field(gt=0)  # peak, reached after the warm-up
    weight_decay: WeightScheduled = 1.0e-4  # spares biases and norms
    momentum: MomentumScheduled = 0.9
    nesterov: bool = False
    clip_grad_norm: float = Field(default=0.0, ge=0)  # 0: no clipping
    layer_decay: LayerDecay = 1.0

    @model_validator(mode="after")
    def nesterov_has_momentum(self) -> "SGDConfig":
        if self.nesterov and not all(numbers_of(self.momentum)):
            raise ValueError("nesterov needs momentum above 0")
        return self


class LARSConfig(StrictModel):
    """LARS, for large batches: weights move in proportion to their norms, biases and norms as in SGD."""

    name: Literal["lars"]
    lr: float = Field(gt=0)  # peak, reached after the warm-up; IMSVD's is 0.6 batch_size / 256
    weight_decay: WeightScheduled = 1.0e-6  # spares biases and norms
    momentum: MomentumScheduled = 0.9
    trust: float = Field(default=1.0e-3, gt=0)  # of its norm that a parameter moves by at lr 1
    clip_grad_norm: float = Field(default=0.0, ge=0)  # 0: no clipping
    layer_decay: LayerDecay = 1.0


OptimizerConfig = Annotated[
    Annotated[AdamWConfig, Tag("adamw")]
    | Annotated[SGDConfig, Tag("sgd")]
    | Annotated[LARSConfig, Tag("lars")],
    chosen_by("name", ("adamw", "sgd", "lars"), default="adamw"),
]
