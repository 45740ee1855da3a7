"""`diagnose`: what a whole data set says of a trained network, every figure asked for from one read."""

# n images, N of the data set, F representation width, D embedding width, K clusters, M variables x U units

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from viewmill.engine.identity import content_hash
from viewmill.engine.method_config import DistillConfig, ImsvdConfig
from viewmill.engine.passes.cluster_prior import described
from viewmill.engine.passes.prior_file import Prior
from viewmill.engine.passes.reading import Reading
from viewmill.engine.passes.run import PassReport, run_pass
from viewmill.engine.passes.subject import Subject
from viewmill.methods.accumulator import Accumulator
from viewmill.methods.cluster_counts import ClusterClassCounts
from viewmill.methods.exemplars import NOBODY, Exemplars, KeptRows
from viewmill.methods.imsvd import soft_variables
from viewmill.methods.joint_matrix import JointAccumulator
from viewmill.methods.moments import MomentsAccumulator
from viewmill.methods.prior_diagnostics import jensen_gap
from viewmill.methods.priors import PriorAccumulator
from viewmill.methods.refresh import Refresh, figures_of
from viewmill.pipelines.order import SampleOrder
from viewmill.shards.manifest import Dataset

PARTS = ("mean", "joint", "prior", "labels", "em", "kmeans", "jensen")
TEMPERATURES = (0.04, 0.07, 0.2, 1.0, 5.0, 25.0)  # of Jensen's gap
_KEPT_NUMBERS = 1 << 21  # of logits that are kept for it: 16 MiB
_MOST_KEPT = 4096  # images
_PAIRS = 10  # of variables that are told


@dataclass(frozen=True)
class Diagnosis:
    """Figures by part, JSON-able, and the tensors behind them by name."""

    figures: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass
class _Part:
    """What a part adds up, of which rows, and what it tells in the end."""

    sums: dict[str, Accumulator]
    rows: Callable[["_Rows"], dict[str, Tensor]]
    told: Callable[[Prior | None], dict[str, Any]]
    tensors: Callable[[], dict[str, Tensor]] = field(default=dict)


class _Rows:
    """Rows of one batch, each made once however many parts want them."""

    def __init__(self, subject: Subject, images: Tensor) -> None:
        self.images, self._subject = images, subject
        self.representation = subject.represent(images).float()
        self.embedding = subject.embed(self.representation).float()
        head = subject.head
        self.normalized = self.embedding if head is None else head.normalized(self.embedding)
        self.logits = self.embedding if head is None else head.logits(self.embedding)

    def mirrored(self) -> Tensor:
        """Embeddings of the mirror images."""
        return self._subject.embed(self._subject.represent(self.images.flip(3)).float()).float()


def parts_of(subject: Subject) -> tuple[str, ...]:
    """The parts that a subject has figures for."""
    if isinstance(subject.method, ImsvdConfig):
        return ("mean", "joint")
    if not isinstance(subject.method, DistillConfig) or subject.method.normalization == "batchnorm":
        return ("mean",)
    em = ("em",) if subject.method.feature_norm != "none" else ()
    return ("mean", "prior", "labels", *em, "kmeans", "jensen")


def diagnose(
    subject: Subject,
    dataset: Dataset,
    *,
    reading: Reading,
    parts: Sequence[str] = (),
    temperatures: Sequence[float] = TEMPERATURES,
    exemplars: int = 5,
    subsample: int | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> tuple[Diagnosis, PassReport]:
    """One read of the data set, or of `subsample` of its samples, for all parts; every rank has the result.

    mean    mean and spread of representations and embeddings (of a distillation its features)
    joint   IMSVD: entropies of variables and pairs, mutual information, one-hot shares, exemplars of units
    prior   distillation: the clusters' prior, its entropy, empty clusters, agreement with the streaming one
    labels  distillation: purity of clusters and their mutual information with the labels, where there are any
    em, kmeans   distillation: how the prototypes fit, and where one step would take them
    jensen  distillation: targets divided by the prior beside centred ones, at several temperatures

    Args:
        parts: of `parts_of(subject)`; none: all of them, without `labels` of a data set that has none.
        temperatures: of `jensen`, > 0.
        exemplars: images of each unit.
        folder: of the pass's states, see `run_pass`.

    Raises:
        ValueError: a part that the subject does not have, a temperature that is not positive, a subsample
            that is no number of 1 to N samples, or see `run_pass`.
    """
    known, total = parts_of(subject), dataset.num_samples
    wrong = [part for part in parts if part not in known]
    if wrong:
        raise ValueError(
            f"{subject.name}: has no figures for {', '.join(wrong)}; a checkpoint of {subject.method.name} "
            f"like this one has {', '.join(known)}"
        )
    if subsample is not None and not 1 <= subsample <= total:
        raise ValueError(f"a subsample of {subsample} of the {total} samples of {dataset.shown}")
    if not temperatures or not min(temperatures) > 0:
        raise ValueError(f"temperatures must be > 0, got {list(temperatures)}")
    if "labels" in parts or not parts:
        known = _without_labels(known, dataset, asked="labels" in parts)
    ids = np.arange(total) if subsample is None else SampleOrder(total, seed).ids(0, 0, subsample)
    chosen = {
        name: build
        for name, build in {
            "mean": lambda: _mean(subject),
            "joint": lambda: _joint(subject, dataset, exemplars),
            "prior": lambda: _prior(subject),
            "labels": lambda: _labels(subject, dataset),
            "em": lambda: _prototypes(subject, "em"),
            "kmeans": lambda: _prototypes(subject, "kmeans"),
            "jensen": lambda: _jensen(subject, temperatures, ids, seed),
        }.items()
        if name in (parts or known)
    }
    made = {name: build() for name, build in chosen.items()}
    sums = {f"{name} {key}": one for name, part in made.items() for key, one in part.sums.items()}

    def embed(images: Tensor) -> dict[str, Tensor]:
        rows = _Rows(subject, images)
        return {f"{name} {key}": row for name, part in made.items() for key, row in part.rows(rows).items()}

    report = run_pass(
        embed,
        dataset,
        sums,
        views=subject.views,
        reading=reading,
        ids=None if subsample is None else ids,
        folder=folder,
        about=subject.about,
        what="images to diagnose",
    )
    about = {
        "source": subject.name,
        "method": subject.method.name,
        "data": {"images": total, "content": content_hash(dataset)},
        "samples": report.counted,
        "total": total,
        "left_out": {str(sample): reason for sample, reason in report.left_out.items()},
    }
    prior = None if "prior" not in made else _prior_of(subject, made["prior"], about)
    figures = about | {name: part.told(prior) for name, part in made.items()}
    tensors = {f"{name}.{key}": x for name, part in made.items() for key, x in part.tensors().items()}
    return Diagnosis(figures, tensors), report


def _mean(subject: Subject) -> _Part:
    sums = {
        name: MomentsAccumulator(width)
        for name, width in zip(("representation", "embedding"), subject.widths, strict=True)
    }

    def told(_: Prior | None) -> dict[str, Any]:
        return {
            name: {
                "dim": one.dim,
                "length_of_mean": float(one.mean().norm()),
                # Share of the mean square that the mean is: 1 where all rows are the same.
                "share_of_mean": float(one.mean().square().sum() / (one.mean().square().sum() + trace)),
                "covariance_trace": trace,
                "largest_standard_error": _finite(float(one.standard_error().max())),
            }
            for name, one in sums.items()
            for trace in [one.covariance_trace()]
        }

    return _Part(
        dict(sums),
        lambda rows: {"representation": rows.representation, "embedding": rows.embedding},
        told,
        lambda: {name: one.mean() for name, one in sums.items()},
    )


def _joint(subject: Subject, dataset: Dataset, keep: int) -> _Part:
    """TI is that of an image and its mirror image, which nothing has drawn; DE and OE are equation 9's."""
    assert isinstance(subject.method, ImsvdConfig)
    dim, units, temperature = subject.widths[1], subject.method.units, subject.values["temperature"]
    joint, invariance = JointAccumulator(dim, units, temperature), MomentsAccumulator(1)
    best = Exemplars(dim, keep)

    def rows(found: _Rows) -> dict[str, Tensor]:
        q, mirrored = (soft_variables(z, units, temperature) for z in (found.embedding, found.mirrored()))
        shape = (len(q), -1, units)
        disagreement = -(q.view(shape) * mirrored.view(shape)).sum(dim=2).log().mean(dim=1)
        return {"matrix": found.embedding, "invariance": disagreement[:, None], "exemplars": q}

    def told(_: Prior | None) -> dict[str, Any]:
        found = joint.statistics()
        return {
            "variables": dim // units,
            "units": units,
            "invariance_with_mirror": float(invariance.mean()),
            "invariance_standard_error": _finite(float(invariance.standard_error())),
            "diagonal_entropy": -found.marginal_entropy,
            "offdiagonal_entropy": -found.joint_entropy,
            "least_diagonal_entropy": -math.log(units),
            "mutual_information": found.mutual_information,
            "largest_pairs": _largest_pairs(joint.pair_information()),
            "one_hot": {str(bound): share for bound, share in found.share_above.items()},
            "exemplars": _keys(best.ids(), dataset, units),
        }

    sums: dict[str, Accumulator] = {"matrix": joint, "invariance": invariance, "exemplars": best}

    def tensors() -> dict[str, Tensor]:
        found = {"pair_information": joint.pair_information(), "corner": joint.corner()}
        return found | {"exemplar_ids": best.ids(), "exemplar_scores": best.scores()}

    return _Part(sums, rows, told, tensors)


def _prior(subject: Subject) -> _Part:
    clusters = _clusters(subject)
    sums: dict[str, Accumulator] = {
        "prior": PriorAccumulator(clusters, subject.values["teacher_temperature"]),
        "center": MomentsAccumulator(clusters),
    }

    def told(prior: Prior | None) -> dict[str, Any]:
        assert prior is not None
        return described(prior, {}, subject.streaming)

    def tensors() -> dict[str, Tensor]:
        prior, center = sums["prior"], sums["center"]
        assert isinstance(prior, PriorAccumulator)
        assert isinstance(center, MomentsAccumulator)
        found = {"log_prior": prior.log_prior(), "standard_error": prior.standard_error()}
        return found | {"center": center.mean()}

    return _Part(sums, lambda rows: {"prior": rows.logits, "center": rows.logits}, told, tensors)


def _without_labels(known: tuple[str, ...], dataset: Dataset, *, asked: bool) -> tuple[str, ...]:
    """The parts that the data set serves. Raises ValueError: `labels` is asked for, and some lack."""
    unlabelled = int((_labels_of(dataset) < 0).sum())
    if unlabelled and asked:
        raise ValueError(
            f"{dataset.shown}: {unlabelled} of {dataset.num_samples} images have no label to compare "
            "clusters with; leave out labels, or convert from a folder with one folder a class"
        )
    return tuple(part for part in known if part != "labels") if unlabelled else known


def _labels_of(dataset: Dataset) -> Tensor:
    return torch.from_numpy(dataset.labels(np.arange(dataset.num_samples)))


def _labels(subject: Subject, dataset: Dataset) -> _Part:
    """Hard clusters, each image in its likeliest: the teacher's largest logit, at any temperature."""
    counts = ClusterClassCounts(_clusters(subject), _labels_of(dataset))

    def told(_: Prior | None) -> dict[str, Any]:
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

        clusters, classes, images = (column.numpy() for column in counts.cells())
        truth, found = np.repeat(classes, images), np.repeat(clusters, images)
        return {
            "clusters_used": len(np.unique(clusters)),
            "classes": len(np.unique(classes)),
            "purity": counts.purity(),
            # Over the arithmetic mean of both entropies; 1 where each tells the other.
            "normalized_mutual_information": float(normalized_mutual_info_score(truth, found)),
            "adjusted_rand_index": float(adjusted_rand_score(truth, found)),
        }

    return _Part({"counts": counts}, lambda rows: {"counts": rows.logits}, told)


def _prior_of(subject: Subject, part: _Part, about: dict[str, Any]) -> Prior:
    found = part.tensors()
    temperature = subject.values["teacher_temperature"]
    return Prior(**found, prototypes=None, about=about | {"temperature": temperature})


def _prototypes(subject: Subject, kind: str) -> _Part:
    assert subject.head is not None
    sums = Refresh(kind).sums(subject.head, subject.values["teacher_temperature"])
    return _Part(
        {"sums": sums},
        lambda rows: {"sums": rows.normalized},
        lambda _: figures_of(sums) | {"smallest_weight": float(sums.weights().min())},
        lambda: {"weights": sums.weights(), "prototypes": sums.refresh().float()},
    )


def _jensen(subject: Subject, temperatures: Sequence[float], ids: np.ndarray, seed: int) -> _Part:
    """Prior and centre are of all samples read; distances are means over some whose logits are kept."""
    clusters = _clusters(subject)
    kept = min(len(ids), _MOST_KEPT, max(1, _KEPT_NUMBERS // clusters))
    rows_of = KeptRows(ids[SampleOrder(len(ids), seed).ids(0, 0, kept)], clusters)
    priors = {f"prior {one:g}": PriorAccumulator(clusters, one) for one in temperatures}
    center = MomentsAccumulator(clusters)

    def told(_: Prior | None) -> dict[str, Any]:
        logits = rows_of.rows()
        gaps = [
            jensen_gap(logits, one.temperature, log_prior=one.log_prior(), center=center.mean())._asdict()
            for one in priors.values()
            if one.temperature is not None
        ]
        return {"images": len(logits), "gaps": gaps}

    sums: dict[str, Accumulator] = {**priors, "center": center, "kept": rows_of}
    return _Part(sums, lambda rows: dict.fromkeys(sums, rows.logits), told)


def _clusters(subject: Subject) -> int:
    assert subject.head is not None
    return len(subject.head.directions)


def _largest_pairs(information_MM: Tensor) -> list[dict[str, Any]]:
    """The pairs of variables that know most of each other, each once."""
    above = information_MM.triu(1).flatten()
    width = len(information_MM)
    most = above.topk(min(_PAIRS, width * (width - 1) // 2))
    return [
        {"variables": [place // width, place % width], "mutual_information": value}
        for value, place in zip(most.values.tolist(), most.indices.tolist(), strict=True)
    ]


def _keys(ids_kD: Tensor, dataset: Dataset, units: int) -> list[list[list[str]]]:
    """Keys of the exemplars, the best first: [variable][unit][place]."""
    used = ids_kD[ids_kD != NOBODY].unique().tolist()
    key_of = dict(zip(used, dataset.keys(used), strict=True))
    columns = [[key_of[one] for one in column if one != NOBODY] for column in ids_kD.T.tolist()]
    return [columns[start : start + units] for start in range(0, len(columns), units)]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
