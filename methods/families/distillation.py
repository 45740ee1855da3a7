"""Clustering distillation as a method: a head of clusters, the teacher's targets, and their statistics."""

# Vs views of the student, Vt of the teacher, n images on this rank, R representation width, K clusters

import math
from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from viewmill.methods.accumulator import Accumulator
from viewmill.methods.cluster_head import ClusterHead
from viewmill.methods.collapse import entropy, mean_over_all
from viewmill.methods.collectives import world_size
from viewmill.methods.distill import distillation_loss
from viewmill.methods.method import Method, MethodLoss, PassOutcome, Values
from viewmill.methods.moments import MomentsAccumulator
from viewmill.methods.priors import PriorAccumulator
from viewmill.methods.prototypes import PrototypeAccumulator
from viewmill.methods.refresh import Refresh, figures_of, shares_after
from viewmill.methods.running_mean import RunningMean
from viewmill.methods.targets import teacher_targets

SMALLEST_VARIANCE = 1e-5  # added in the batch norm of the teacher's features


class Distillation(Method):
    """The student's clusters follow the teacher's targets: see `teacher_targets` and `distillation_loss`.

    Its values at a step: student_temperature and teacher_temperature; teacher_momentum is the engine's.

    Args:
        head: the student's.
        normalization: of `teacher_targets`, or "batchnorm": the teacher's features are normalised to mean 0
            and variance 1 in every dimension before their own norm and the clusters. The student's never are.
        scope, momentum, every_epochs: over what the prior (mean posterior), the centre (mean logits) or the
            moments of the features are taken; see `RunningMean`. Rows of all the teacher's views count.
        prior_iterations: see `teacher_targets`.
        kind: see `distillation_loss`.
        refresh: when a pass makes the prototypes anew, not with "batchnorm"; None: never.
    """

    views: ClassVar[str] = "dino"
    has_teacher: ClassVar[bool] = True

    def __init__(
        self,
        head: ClusterHead,
        *,
        normalization: str = "prior",
        scope: str = "batch",
        momentum: float = 0.0,
        every_epochs: int = 1,
        prior_iterations: int = 1,
        kind: str = "kl",
        refresh: Refresh | None = None,
    ) -> None:
        super().__init__()
        self.head: ClusterHead = head
        self.refresh = refresh
        self.normalization, self.prior_iterations, self.kind = normalization, prior_iterations, kind
        clusters, features = head.num_clusters, head.feature_dim
        widths = {"prior": clusters, "center": clusters, "batchnorm": 2 * features}
        # The batch's own prior and centre are the business of `teacher_targets`.
        keeps = normalization == "batchnorm" or (normalization in widths and scope != "batch")
        self.statistic = (
            RunningMean(widths[normalization], scope, momentum=momentum, every_epochs=every_epochs)
            if keeps
            else None
        )

    def embed(self, representation: Tensor) -> Tensor:
        """(m, F) -> (m, K)."""
        embedding: Tensor = self.head(representation)
        return embedding

    @torch.no_grad()
    def targets(
        self, head: nn.Module, representation: Tensor, values: Values, group: ProcessGroup | None = None
    ) -> Tensor:
        """Targets (Vt, n, K) of the teacher's representations (Vt, n, R); updates the statistics."""
        teacher, temperature = cast(ClusterHead, head), values["teacher_temperature"]
        features = teacher.features(representation.flatten(0, 1))
        if self.normalization == "batchnorm":
            features = self._normalized(features, group)
        logits = teacher.logits(features)
        q = teacher_targets(
            logits,
            temperature=temperature,
            normalization="none" if self.normalization == "batchnorm" else self.normalization,
            log_prior=self._log_prior(logits, temperature, group),
            center=self._center(logits, group),
            prior_iterations=self.prior_iterations,
            group=group,
        )
        return q.view(*representation.shape[:2], -1)

    def _normalized(self, features: Tensor, group: ProcessGroup | None) -> Tensor:
        """(f - mean) / sqrt(variance + eps) in every dimension, by the statistic's moments."""
        assert self.statistic is not None
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        # In float64 the square of the mean can be taken from the mean of the squares.
        moments = torch.cat([features.double(), features.double().square()], dim=1)
        mean, square = self.statistic.update(moments, group).value.chunk(2)
        variance = (square - mean.square()).clamp(min=0)
        return ((features - mean) * (variance + SMALLEST_VARIANCE).rsqrt()).to(features.dtype)

    def _log_prior(self, logits: Tensor, temperature: float, group: ProcessGroup | None) -> Tensor | None:
        """log P, at least log 1/(N K); None: left to `teacher_targets`, or there is none."""
        if self.normalization != "prior" or self.statistic is None:
            return None
        prior = self.statistic.update((logits / temperature).softmax(dim=1), group)
        return torch.maximum(prior.value, 1 / (prior.rows * len(prior.value))).log()

    def _center(self, logits: Tensor, group: ProcessGroup | None) -> Tensor | None:
        if self.normalization != "center" or self.statistic is None:
            return None
        return self.statistic.update(logits, group).value

    def before_epoch(self, epoch: int) -> None:
        if self.statistic is not None:
            self.statistic.before_epoch(epoch)

    def pass_sums(self, head: nn.Module, epoch: int, values: Values) -> dict[str, Accumulator]:
        """Of scope "dataset", every so many epochs: posteriors or features of the teacher, for the statistic.

        Where prototypes are made anew, the sums for that, and those for the statistic of any scope: what it
        has seen so far was of the old prototypes, and the pass is read anyway.
        """
        sums: dict[str, Accumulator] = {}
        temperature = values["teacher_temperature"]
        is_refreshed = self.refresh is not None and self.refresh.is_due(epoch)
        if self.refresh is not None and is_refreshed:
            sums["prototypes"] = self.refresh.sums(cast(ClusterHead, head), temperature)
        if self.statistic is not None and (is_refreshed or self.statistic.wants_fill(epoch)):
            is_prior = self.normalization == "prior"
            sums["statistic"] = (
                PriorAccumulator(self.head.num_clusters, temperature)
                if is_prior
                else MomentsAccumulator(self.head.feature_dim)
            )
        return sums

    def pass_rows(self, head: nn.Module, representation: Tensor) -> dict[str, Tensor]:
        teacher = cast(ClusterHead, head)
        features = teacher.features(representation)
        normalized = teacher.normalized(features)
        # The centre is linear in the features: their mean gives it for any prototypes.
        rows = {"center": normalized, "batchnorm": features}.get(self.normalization)
        return {
            "prototypes": normalized,
            "statistic": teacher.logits(features) if rows is None else rows,
        }

    def take_pass(self, head: nn.Module, sums: Mapping[str, Accumulator]) -> PassOutcome:
        directions, outcome = cast(ClusterHead, head).directions, PassOutcome({}, {})
        prototypes = cast(PrototypeAccumulator | None, sums.get("prototypes"))
        if prototypes is not None:
            directions = prototypes.refresh().to(directions)
            outcome = PassOutcome({"directions": directions}, figures_of(prototypes))
        statistic = sums.get("statistic")
        if self.statistic is None or statistic is None:
            return outcome
        if isinstance(statistic, PriorAccumulator):
            mean = statistic.log_prior().exp()
            mean = mean if prototypes is None else shares_after(prototypes, mean)
        else:
            assert isinstance(statistic, MomentsAccumulator)
            mean = statistic.mean()
            if self.normalization == "center":
                mean = self.head.prototypes_of(directions).double().to(mean.device) @ mean
            else:
                mean = torch.cat([mean, statistic.variance() + mean.square()])
        self.statistic.fill(mean, statistic.count)
        return outcome

    def loss(
        self, z: Tensor, values: Values, targets: Tensor | None = None, group: ProcessGroup | None = None
    ) -> MethodLoss:
        """Loss of the student's logits (Vs, n, K) against `targets` (Vt, n, K), nats."""
        if targets is None:
            raise ValueError("distillation needs the teacher's targets")
        temperature = values["student_temperature"]
        loss = distillation_loss(z, targets, temperature=temperature, kind=self.kind, group=group)
        return MethodLoss(loss, {})

    @torch.no_grad()
    def diagnostics(
        self, z: Tensor, values: Values, targets: Tensor | None = None, group: ProcessGroup | None = None
    ) -> dict[str, Tensor]:
        """How the clusters are used, by the student's posteriors p over the batch of all ranks.

        prior_entropy: of the mean p, nats; log K where clusters are equally large.
        student_entropy, target_entropy: mean entropy of p and of the targets; log K where nothing is told.
        used_clusters: clusters that get a hundredth of an even part or more, as a share of min(K, vectors).
        """
        assert targets is not None
        p = (z / values["student_temperature"]).softmax(dim=2)
        prior = mean_over_all(p.mean(dim=(0, 1)), group)
        means = torch.stack([entropy(p).mean(), entropy(targets).mean()])
        student_entropy, target_entropy = mean_over_all(means, group)
        clusters, rows = len(prior), z.shape[0] * z.shape[1] * world_size(group)
        return {
            "prior_entropy": entropy(prior),
            "student_entropy": student_entropy,
            "target_entropy": target_entropy,
            "used_clusters": (prior >= 0.01 / clusters).sum() / min(clusters, rows),
        }

    def alarms(self, figures: Mapping[str, float], values: Values) -> dict[str, str]:
        found = {}
        clusters = self.head.num_clusters
        most = math.log(clusters)
        if figures["student_entropy"] > most - 0.02:
            found["uniform"] = (
                f"the student's entropy is {figures['student_entropy']:.3f} of log K = {most:.3f}: every "
                "image belongs to all clusters; lower method.student_temperature or "
                "method.teacher_temperature"
            )
        if figures["prior_entropy"] < math.log(2):
            found["collapse"] = (
                f"the entropy of the clusters' sizes is {figures['prior_entropy']:.3f}, that of two clusters "
                "or fewer: images fall together; set method.normalization=prior or sinkhorn, or raise "
                "method.teacher_temperature"
            )
        elif figures["used_clusters"] < 0.1:
            found["empty_clusters"] = (
                f"{100 * figures['used_clusters']:.1f} % of the clusters that could be used are, of "
                f"{clusters}; lower method.num_clusters, or set method.normalization=prior or sinkhorn"
            )
        return found
