"""The settings of each optimiser. `optimizer.name` says which one it is; a recipe without it means AdamW."""

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator
from viewmill.engine.strict import StrictModel, chosen_by


class AdamWConfig(StrictModel):
    """AdamW; weight decay spares biases and norms."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(default=1.0e-3, gt=0)  # peak, reached after the warm-up
    weight_decay: float = Field(default=1.0e-4, ge=0)
    # Not strict: YAML gives a list, which a strict tuple refuses.
    betas: tuple[float, float] = Field(default=(0.9, 0.999), strict=False)
    eps: float = Field(default=1.0e-8, gt=0)
    clip_grad_norm: float = Field(default=0.0, ge=0)  # 0: no clipping


class SGDConfig(StrictModel):
    """SGD as torch has it: the decay is added to the gradient, and momentum is summed from there."""

    name: Literal["sgd"]
    lr: float = Field(gt=0)  # peak, reached after the warm-up
    weight_decay: float = Field(default=1.0e-4, ge=0)  # spares biases and norms
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    clip_grad_norm: float = Field(default=0.0, ge=0)  # 0: no clipping

    @model_validator(mode="after")
    def nesterov_has_momentum(self) -> "SGDConfig":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0")
        return self


OptimizerConfig = Annotated[
    Annotated[AdamWConfig, Tag("adamw")] | Annotated[SGDConfig, Tag("sgd")],
    chosen_by("name", ("adamw", "sgd"), default="adamw"),
]
