"""What accumulators must give, written out in float64 NumPy, sample by sample."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from viewmill.methods.accumulator import Accumulator, SampleAccumulator
from viewmill.methods.cluster_counts import ClusterClassCounts
from viewmill.methods.exemplars import Exemplars, KeptRows
from viewmill.methods.joint_matrix import JointAccumulator
from viewmill.methods.moments import MomentsAccumulator
from viewmill.methods.priors import PriorAccumulator
from viewmill.methods.prototypes import PrototypeAccumulator

SAMPLES, DIM, UNITS, TEMPERATURE, KEEP = 37, 12, 3, 0.5, 4
CHOSEN = np.array([30, 2, 11, 36])
LABELS = torch.arange(SAMPLES) % 5


def rows_of_all() -> Tensor:
    """(37, 12) float64, far from zero in the mean, and with some variables that are nearly decided."""
    generator = torch.Generator().manual_seed(5)
    rows = 2 * torch.randn(SAMPLES, DIM, generator=generator, dtype=torch.float64) + 1
    rows[::3] *= 4
    return rows


def first_prototypes() -> Tensor:
    """(5, 12), the last one opposite to all samples: nobody's."""
    rows = rows_of_all()
    return torch.cat([rows[:4], -rows.mean(dim=0, keepdim=True)])


ACCUMULATORS: dict[str, Callable[[], Accumulator]] = {
    "prior": lambda: PriorAccumulator(DIM, TEMPERATURE),
    "moments": lambda: MomentsAccumulator(DIM),
    "joint": lambda: JointAccumulator(DIM, UNITS, TEMPERATURE),
    "k-means": lambda: PrototypeAccumulator(first_prototypes()),
    "em": lambda: PrototypeAccumulator(first_prototypes(), TEMPERATURE),
    "exemplars": lambda: Exemplars(DIM, KEEP),
    "kept rows": lambda: KeptRows(CHOSEN, DIM),
    "cluster classes": lambda: ClusterClassCounts(DIM, LABELS),
}


def add(accumulator: Accumulator, part: slice) -> None:
    """Adds these of `rows_of_all`; the id of a sample is its place."""
    if isinstance(accumulator, SampleAccumulator):
        accumulator.of_samples(np.arange(SAMPLES)[part])
    accumulator.update(rows_of_all()[part])


def found_by(accumulator: Any) -> dict[str, list[float]]:
    """All statistics of a pooled accumulator, as lists of numbers."""
    if isinstance(accumulator, PriorAccumulator):
        found = {"prior": accumulator.log_prior().exp(), "standard_error": accumulator.standard_error()}
    elif isinstance(accumulator, MomentsAccumulator):
        found = {
            "mean": accumulator.mean(),
            "variance": accumulator.variance(),
            "trace": torch.tensor([accumulator.covariance_trace()], dtype=torch.float64),
            "standard_error": accumulator.standard_error(),
        }
    elif isinstance(accumulator, JointAccumulator):
        told = accumulator.statistics()
        found = {
            "entropies": torch.tensor(told[:3], dtype=torch.float64),
            "above": torch.tensor(list(told.share_above.values()), dtype=torch.float64),
            "pairs": accumulator.pair_information().flatten(),
        }
    elif isinstance(accumulator, Exemplars):
        found = {"ids": accumulator.ids().T.flatten(), "scores": accumulator.scores().T.flatten()}
    elif isinstance(accumulator, KeptRows):
        found = {"rows": accumulator.rows().flatten()}
    elif isinstance(accumulator, ClusterClassCounts):
        found = {
            "cells": torch.stack(accumulator.cells()).flatten(),
            "purity": torch.tensor([accumulator.purity()], dtype=torch.float64),
        }
    else:
        found = {
            "weights": accumulator.weights(),
            "fit": torch.tensor([accumulator.fit()], dtype=torch.float64),
            "new": accumulator.refresh().flatten(),
        }
    return {name: values.double().tolist() for name, values in found.items()}


def expected_of(name: str) -> dict[str, list[float]]:
    """The same by the definitions."""
    x = rows_of_all().numpy()
    if name == "prior":
        t = np.array([[math.exp(z / TEMPERATURE) for z in row] for row in x])
        t = t / t.sum(axis=1, keepdims=True)
        error = t.std(axis=0, ddof=1) / math.sqrt(SAMPLES)
        return {"prior": t.mean(axis=0).tolist(), "standard_error": error.tolist()}
    if name == "moments":
        return {
            "mean": x.mean(axis=0).tolist(),
            "variance": x.var(axis=0).tolist(),
            "trace": [float(((x - x.mean(axis=0)) ** 2).sum() / SAMPLES)],
            "standard_error": (x.std(axis=0, ddof=1) / math.sqrt(SAMPLES)).tolist(),
        }
    if name == "exemplars":
        ids = [sorted(range(SAMPLES), key=lambda i: (-x[i, d], i))[:KEEP] for d in range(DIM)]
        scores = [x[i, d] for d, best in enumerate(ids) for i in best]
        return {"ids": [float(i) for best in ids for i in best], "scores": scores}
    if name == "kept rows":
        return {"rows": x[sorted(CHOSEN)].flatten().tolist()}
    if name == "cluster classes":
        pairs = [(int(row.argmax()), int(label)) for row, label in zip(x, LABELS, strict=True)]
        cells = [(cluster, label, pairs.count((cluster, label))) for cluster, label in sorted(set(pairs))]
        most = [max((n for k, _, n in cells if k == cluster), default=0) for cluster in range(DIM)]
        return {"cells": np.array(cells, dtype=float).T.flatten().tolist(), "purity": [sum(most) / SAMPLES]}
    return joint_of(x) if name == "joint" else prototypes_of(x, soft=name == "em")


def joint_of(x: np.ndarray) -> dict[str, list[float]]:
    num_variables = DIM // UNITS
    q = np.exp(x / TEMPERATURE).reshape(SAMPLES, num_variables, UNITS)
    q = np.maximum(q / q.sum(axis=2, keepdims=True), 1e-8)

    def entropy(p: np.ndarray) -> float:
        return -sum(float(value) * math.log(value) for value in p.flatten())

    single = [entropy(q[:, m].mean(axis=0)) for m in range(num_variables)]
    pairs, informations, matrix = [], [], np.zeros((num_variables, num_variables))
    for m1 in range(num_variables):
        for m2 in range(num_variables):
            if m1 != m2:
                joint = entropy(sum(np.outer(sample[m1], sample[m2]) for sample in q) / SAMPLES)
                pairs.append(joint)
                informations.append(single[m1] + single[m2] - joint)
                matrix[m1, m2] = informations[-1]
    above = [float((q.max(axis=2) > bound).mean()) for bound in (0.9, 0.99)]
    means = [sum(numbers) / len(numbers) for numbers in (single, pairs, informations)]
    return {"entropies": means, "above": above, "pairs": matrix.flatten().tolist()}


def prototypes_of(x: np.ndarray, soft: bool) -> dict[str, list[float]]:
    old = first_prototypes().numpy()
    old = old / np.sqrt((old**2).sum(axis=1, keepdims=True))
    weights, sums, fits = np.zeros(len(old)), np.zeros_like(old), []
    for row in x:
        unit = row / math.sqrt(float(row @ row))
        cosines = old @ unit
        if soft:
            shares = np.exp(cosines / TEMPERATURE)
            fits.append(math.log(shares.sum()))
            shares = shares / shares.sum()
        else:
            shares = (np.arange(len(old)) == cosines.argmax()).astype(float)
            fits.append(float(cosines.max()))
        weights += shares
        sums += np.outer(shares, unit)
    new = [total / math.sqrt(float(total @ total)) if total.any() else None for total in sums]
    if new[-1] is None:  # the empty cluster takes half of the largest
        full = int(weights.argmax())
        new[-1], new[full] = new[full] + 0.01 * old[-1], new[full] - 0.01 * old[-1]
    directions = [row / np.sqrt((row**2).sum()) for row in new]
    return {
        "weights": weights.tolist(),
        "fit": [float(np.mean(fits))],
        "new": np.concatenate(directions).tolist(),
    }
