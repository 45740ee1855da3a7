"""`cluster_prior`: a pass of a teacher over a data set, and what the prior says of its clusters."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from viewmill.engine.identity import content_hash
from viewmill.engine.passes.prior_file import Prior
from viewmill.engine.passes.reading import Reading
from viewmill.engine.passes.run import PassReport, run_pass
from viewmill.methods.moments import MomentsAccumulator
from viewmill.methods.prior_diagnostics import (
    agreement,
    empty_clusters,
    floored_clusters,
    prior_entropy,
    subsample_error,
)
from viewmill.methods.priors import PriorAccumulator
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset

DEFAULT_TEMPERATURE = 0.07  # where the teacher's usually ends


@dataclass(frozen=True)
class Streaming:
    """A prior that training summed up itself, as a checkpoint has it."""

    log_prior: Tensor  # (K,)
    rows: int  # teacher outputs in it


@dataclass(frozen=True)
class ClusterModel:
    """Images to logits over clusters: all that a prior needs to know of a teacher."""

    name: str  # for people; no path of a machine
    logits: Callable[[Tensor], Tensor]  # (n, 3, S, S) on the rank's device -> (n, K), before the temperature
    num_clusters: int
    views: ViewSpec  # one view a sample, nothing drawn
    about: dict[str, Any]  # JSON-able: what the logits depend on, such as the weights' hash
    temperature: float = DEFAULT_TEMPERATURE  # of the teacher, where none is asked for
    prototypes: Tensor | None = None  # (K, F), to be kept with the prior
    streaming: Streaming | None = None


def cluster_prior(
    model: ClusterModel,
    dataset: Dataset,
    *,
    reading: Reading,
    temperature: float | None = None,
    subsample: int | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> tuple[Prior, PassReport]:
    """P_k = mean posterior over the data set, or over `subsample` samples that the seed draws.

    Every rank calls it and has the result. The centre comes from the same pass.

    Args:
        temperature: of the softmax; None: the model's.
        folder: of the pass's states, see `run_pass`.

    Raises:
        ValueError: a subsample that is no number of 1 to N samples, or see `run_pass`.
    """
    total = dataset.num_samples
    if subsample is not None and not 1 <= subsample <= total:
        raise ValueError(f"a subsample of {subsample} of the {total} samples of {dataset.shown}")
    ids = None if subsample is None else SampleOrder(total, seed).ids(0, 0, subsample)
    temperature = temperature or model.temperature
    prior = PriorAccumulator(model.num_clusters, temperature)
    center = MomentsAccumulator(model.num_clusters)

    def embed(images: Tensor) -> dict[str, Tensor]:
        logits = model.logits(images)
        return {"prior": logits, "center": logits}

    report = run_pass(
        embed,
        dataset,
        {"prior": prior, "center": center},
        views=model.views,
        reading=reading,
        ids=ids,
        folder=folder,
        about=model.about,
        what="images for the prior",
    )
    about = {
        "source": model.name,
        "model": model.about,
        "views": model.views.name,
        "temperature": temperature,
        "clusters": model.num_clusters,
        "data": {"images": total, "content": content_hash(dataset)},
        "samples": report.counted,
        "subsample": None if subsample is None else {"drawn": subsample, "seed": seed},
        "left_out": {str(sample): reason for sample, reason in report.left_out.items()},
    }
    log_prior = prior.log_prior()
    made = Prior(log_prior, prior.standard_error(), center.mean(), model.prototypes, about)
    return made, report


def described(prior: Prior, others: dict[str, Prior], streaming: Streaming | None) -> dict[str, Any]:
    """What the prior says, and how it agrees with others: JSON-able.

    z against another prior of the same data set counts what the subsamples leave open; against one of another
    data set, or a streaming one, the samples are taken as drawn from more.
    """
    samples, total = prior.about["samples"], prior.about["data"]["images"]
    p = prior.log_prior.exp()
    entropy = prior_entropy(prior.log_prior)
    error = error_of_data_set(prior)
    told = {
        "clusters": len(p),
        "temperature": prior.about["temperature"],
        "samples": samples,
        "total": total,
        "entropy": entropy,
        "entropy_of_equal_clusters": math.log(len(p)),
        "clusters_of_this_entropy": math.exp(entropy),
        "empty_clusters": int(empty_clusters(prior.log_prior, samples).sum()),
        "largest": float(p.max()),
        "smallest": float(p.min()),
        "median_relative_error": _finite(float((error / p).median())),
        "largest_relative_error": _finite(float((error / p).max())),
        "left_out": prior.about["left_out"],
    }
    compared = {name: _compare(prior, other) for name, other in others.items()}
    if streaming is not None:
        log_prior = streaming.log_prior.cpu()
        estimated = ~(floored_clusters(log_prior, streaming.rows) | _floored(prior))
        found = agreement(log_prior, prior.log_prior, prior.standard_error * estimated)
        compared["streaming"] = found._asdict() | {"rows": streaming.rows}
    return told | {"agreement": compared}


def error_of_data_set(prior: Prior) -> Tensor:
    """Standard error of P_k as an estimate for all samples of its data set: 0 where all were read."""
    return subsample_error(prior.standard_error, prior.about["samples"], prior.about["data"]["images"])


def _compare(prior: Prior, other: Prior) -> dict[str, Any]:
    same = prior.about["data"] == other.about["data"]
    errors = [error_of_data_set(one) if same else one.standard_error for one in (prior, other)]
    error = torch.stack(errors).square().sum(dim=0).sqrt() * ~(_floored(prior) | _floored(other))
    return agreement(other.log_prior, prior.log_prior, error)._asdict()


def _floored(prior: Prior) -> Tensor:
    return floored_clusters(prior.log_prior, prior.about["samples"])


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
