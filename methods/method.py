"""What the engine needs of a method, and the methods there are."""

from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from torch.distributed import ProcessGroup
from viewmill.methods.heads import Projector
from viewmill.methods.vmf import hydes_loss


class MethodLoss(NamedTuple):
    """The loss of the global batch, and what to log beside it: 0-dim tensors without gradient."""

    loss: Tensor
    metrics: dict[str, Tensor]


class HyDeS(nn.Module):
    """HyDeS: a projector and the mutual information of its embeddings.

    Args:
        representation_dim: F, the backbone's width.
        kappa, alpha, beta: see `hydes_loss`.
        projector_hidden, projector_dim, projector_layers: see `Projector`.
    """

    views: ClassVar[str] = "hydes"  # the preset that it wants
    forwards: ClassVar[str] = "resolution"  # views of one size go through the backbone together
    # The loss of a batch is no mean of losses of its parts: every vector is compared with every other.
    decomposes: ClassVar[bool] = False

    def __init__(
        self,
        representation_dim: int,
        *,
        kappa: float,
        alpha: float,
        beta: float,
        projector_hidden: int,
        projector_dim: int,
        projector_layers: int,
    ) -> None:
        super().__init__()
        self.kappa, self.alpha, self.beta = kappa, alpha, beta
        self.projector = Projector(representation_dim, projector_hidden, projector_dim, projector_layers)

    def embed(self, representation: Tensor) -> Tensor:
        """(m, F) -> (m, D)."""
        embedding: Tensor = self.projector(representation)
        return embedding

    def loss(self, z: Tensor, group: ProcessGroup | None = None) -> MethodLoss:
        """Loss of embeddings (V, n, D) and the entropies behind it, nats."""
        result = hydes_loss(z, kappa=self.kappa, alpha=self.alpha, beta=self.beta, group=group)
        metrics = {
            "h_global": result.h_global,
            "h_local": result.h_local,
            "mutual_information": result.mutual_information,
        }
        return MethodLoss(result.loss, metrics)


METHODS: dict[str, type[HyDeS]] = {"hydes": HyDeS}
