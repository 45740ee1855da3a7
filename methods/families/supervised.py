"""The supervised yardstick as a method: a linear classifier and the cross-entropy of its classes."""

# V views of an image, n images on this rank, F representation width, K classes

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from viewmill.methods.collapse import entropy, mean_over_all
from viewmill.methods.method import Method, MethodLoss, Values
from viewmill.methods.supervised import supervised_loss


class Supervised(Method):
    """Backbone and linear classifier on labels: see `supervised_loss`. It has no values.

    Args:
        representation_dim: F.
        num_classes: K.
    """

    views: ClassVar[str] = "supervised"
    needs_labels: ClassVar[bool] = True

    def __init__(self, representation_dim: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(representation_dim, num_classes)

    def embed(self, representation: Tensor) -> Tensor:
        """(m, F) -> (m, K)."""
        logits: Tensor = self.classifier(representation)
        return logits

    def loss(
        self, z: Tensor, values: Values, targets: Tensor | None = None, group: ProcessGroup | None = None
    ) -> MethodLoss:
        """Loss of logits (V, n, K) against the labels (n,), nats."""
        if targets is None:
            raise ValueError("the supervised method needs labels")
        return MethodLoss(supervised_loss(z, targets, group=group), {})

    @torch.no_grad()
    def diagnostics(
        self, z: Tensor, values: Values, targets: Tensor | None = None, group: ProcessGroup | None = None
    ) -> dict[str, Tensor]:
        """Over the views and images of all ranks, before the step's update.

        batch_top1: share of the augmented training views whose largest logit is that of their label.
        prediction_entropy: mean entropy of the classes, nats; log K where nothing is told.
        """
        assert targets is not None
        hits = (z.argmax(dim=2) == targets).float().mean()
        top1, uncertainty = mean_over_all(torch.stack([hits, entropy(z.softmax(dim=2)).mean()]), group)
        return {"batch_top1": top1, "prediction_entropy": uncertainty}

    def alarms(self, figures: Mapping[str, float], values: Values) -> dict[str, str]:
        most = math.log(self.classifier.out_features)
        if figures["prediction_entropy"] <= 0.999 * most:
            return {}
        return {
            "uniform": (
                f"the entropy of the predicted classes is {figures['prediction_entropy']:.3f} of "
                f"log K = {most:.3f}: all classes are as likely; raise optimizer.lr"
            )
        }
