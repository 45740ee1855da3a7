"""HyDeS as a method: a projector and the mutual information of its embeddings."""

# V views of an image, n images on this rank, D width

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.collapse import effective_rank, mean_cosine
from viewmill.methods.heads import Projector
from viewmill.methods.method import Method, MethodLoss, Values
from viewmill.methods.vmf import hydes_loss


class HyDeS(Method):
    """HyDeS: see `hydes_loss`. Its values at a step: kappa, alpha, beta."""

    views: ClassVar[str] = "hydes"

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.projector = projector

    def embed(self, representation: Tensor) -> Tensor:
        """(m, F) -> (m, D)."""
        embedding: Tensor = self.projector(representation)
        return embedding

    def loss(
        self, z: Tensor, values: Values, targets: Tensor | None = None, group: ProcessGroup | None = None
    ) -> MethodLoss:
        """Loss of embeddings (V, n, D) and the entropies behind it, nats."""
        result = hydes_loss(z, **values, group=group)
        metrics = {
            "h_global": result.h_global,
            "h_local": result.h_local,
            "mutual_information": result.mutual_information,
        }
        return MethodLoss(result.loss, metrics)

    def diagnostics(
        self, z: Tensor, values: Values, targets: Tensor | None = None, group: ProcessGroup | None = None
    ) -> dict[str, Tensor]:
        """Of the first view: the mean cosine of two images, and the effective rank of the embeddings."""
        return {"mean_cosine": mean_cosine(z[0], group), "effective_rank": effective_rank(z[0])}

    def alarms(self, figures: Mapping[str, float], values: Values) -> dict[str, str]:
        found = {}
        if figures["mean_cosine"] > 0.95:
            found["collapse"] = (
                f"the embeddings of two images have a mean cosine of {figures['mean_cosine']:.3f}: all "
                "images look alike; raise method.kappa or method.alpha, or lower optimizer.lr"
            )
        if figures["effective_rank"] < 2:
            found["dimensional_collapse"] = (
                f"the embeddings fill {figures['effective_rank']:.1f} dimensions; raise method.kappa, or "
                "lower method.beta"
            )
        return found
