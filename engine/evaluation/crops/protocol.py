"""How papers train a linear classifier on a frozen backbone: views, batches, rates and their schedule."""

import math
from typing import Any

from pydantic import Field, field_validator
from viewmill.engine.evaluation.linear_probe import HELD_OUT_EVERY
from viewmill.engine.strict import StrictModel
from viewmill.pipelines.views import ViewDistribution, ViewSpec

SEED = 0  # of order and crops


class CropOptions(StrictModel):
    """What a user changes of a protocol, and how many untrained backbones are trained beside."""

    epochs: int | None = Field(default=None, ge=1)  # None: as published
    rates: tuple[float, ...] | None = Field(default=None, strict=False)  # None: the protocol's grid
    untrained: int = Field(default=1, ge=0, le=3)  # seeds 0, 1, 2

    @field_validator("rates")
    @classmethod
    def rates_differ_and_are_positive(cls, rates: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if rates is not None and (not rates or min(rates) <= 0 or len(set(rates)) < len(rates)):
            raise ValueError(f"learning rates must be > 0 and differ, got {list(rates)}")
        return rates


class CropProtocol(StrictModel):
    """SGD with momentum on random resized crops with flips, one classifier a rate, all from zero."""

    name: str  # as in the task crops@NAME
    epochs: int = Field(ge=1)
    batch: int = Field(default=256, ge=1)  # images of a step; an epoch's last may be short
    rates: tuple[float, ...] = Field(strict=False, min_length=1)
    published_rate: float
    momentum: float = 0.9
    decay: float  # of weights and biases
    scale: tuple[float, float] = Field(strict=False)  # of the crop, share of the image's area
    milestones: tuple[int, ...] = Field(default=(), strict=False)  # epochs that begin at a tenth; (): cosine

    @property
    def id(self) -> str:
        """All that the figures depend on beside backbone, images and size; two equal ids compare."""
        low, high = self.scale
        steps = "-".join(map(str, self.milestones))
        rates = "-".join(f"{rate:g}" for rate in self.rates)
        chosen = f"/every-{HELD_OUT_EVERY}th-of-train-chooses" if self.chooses else ""
        return (
            f"crops-v1/{self.name}/area-{low:g}-{high:g}/flip/momentum-{self.momentum:g}/decay-{self.decay:g}/"
            f"{f'tenth-at-{steps}' if steps else 'cosine'}/{self.epochs}-epochs-of-{self.batch}/rates-{rates}"
            f"{chosen}"
        )

    @property
    def chooses(self) -> bool:
        """Whether there is more than one rate."""
        return len(self.rates) > 1

    def factor(self, epoch: int, step: int, num_steps: int) -> float:
        """What the rates are multiplied with at a step of an epoch of `num_steps`.

        Cosine: (1 + cos(pi t / T)) / 2 at step t of T in all (Loshchilov and Hutter 2017), down to 0.
        """
        if self.milestones:
            return float(0.1 ** sum(epoch >= milestone for milestone in self.milestones))
        return (1 + math.cos(math.pi * (epoch * num_steps + step) / (self.epochs * num_steps))) / 2

    def views(self, size: int, mean: tuple[float, float, float], std: tuple[float, float, float]) -> ViewSpec:
        """One view a sample, `size` pixels: a random resized crop, bilinear, flipped with probability 1/2."""
        view = ViewDistribution(size=size, scale=self.scale, interpolation="bilinear", flip=0.5)
        return ViewSpec(f"{self.name}@{size}", (view,), mean, std)

    def changed(self, options: CropOptions) -> "CropProtocol":
        """With other epochs and rates; milestones keep their share of the epochs."""
        epochs = options.epochs or self.epochs
        milestones = tuple(round(milestone * epochs / self.epochs) for milestone in self.milestones)
        rates = options.rates or self.rates
        return CropProtocol(
            **{**self.model_dump(), "epochs": epochs, "milestones": milestones, "rates": rates}
        )


PROTOCOLS: dict[str, CropProtocol] = {
    protocol.name: protocol
    for protocol in (
        # IMSVD, section IV-A, "ImageNet Linear classification": rate 0.02, cosine, decay 1e-6, batch 256, 100
        # epochs, crops of 0.2 to 1. The other rates reach those of Barlow Twins (0.3) and MoCo (30).
        CropProtocol(
            name="imagenet",
            epochs=100,
            rates=(0.02, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
            published_rate=0.02,
            decay=1e-6,
            scale=(0.2, 1.0),
        ),
        # IMSVD, "Transfer Learning Linear classification", after Misra and van der Maaten 2020 (PIRL): 14
        # epochs, rate 0.01, a tenth at epochs 5 and 10, decay 5e-4. Batch and crops, which it does not
        # say, are those of VISSL's benchmark of Places205.
        CropProtocol(
            name="places205",
            epochs=14,
            rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
            published_rate=0.01,
            decay=5e-4,
            scale=(0.08, 1.0),
            milestones=(5, 10),
        ),
        # HyDeS names none, but that it is Lightly's benchmark, which follows SimCLR (Chen et al. 2020): rate
        # 0.1 at a batch of 256, cosine, no decay, 90 epochs, crops of 0.08 to 1.
        CropProtocol(
            name="lightly",
            epochs=90,
            rates=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
            published_rate=0.1,
            decay=0.0,
            scale=(0.08, 1.0),
        ),
    )
}


def crop_options(epochs: int | None, rates: str | None, untrained: int | None) -> CropOptions | None:
    """The options of these words; None where none is given.

    Args:
        rates: numbers with commas between.

    Raises:
        ValueError: a rate that is no positive number, or stands twice.
    """
    given: dict[str, Any] = {"epochs": epochs, "untrained": untrained}
    if rates is not None:
        try:
            given["rates"] = tuple(float(rate) for rate in rates.split(","))
            CropOptions(rates=given["rates"])
        except ValueError:
            raise ValueError(
                f"--crops-rates {rates}: expected different learning rates > 0 with commas between, such as "
                "0.02,0.3"
            ) from None
    known = {name: value for name, value in given.items() if value is not None}
    return CropOptions(**known) if known else None
