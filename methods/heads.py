"""Heads between representation and loss."""

from torch import Tensor, nn

NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}


class Projector(nn.Sequential):
    """Multi-layer perceptron from representations (m, F) to embeddings (m, D).

    `layers` linear maps; between them normalisation and ReLU. A map before a batch or layer norm has no bias.

    Raises:
        ValueError: a width or the number of layers is below 1, or an unknown norm.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, layers: int, norm: str = "batch") -> None:
        if min(in_dim, hidden_dim, out_dim, layers) < 1:
            raise ValueError(
                f"projector {in_dim} -> {hidden_dim} -> {out_dim}, {layers} layers: all must be >= 1"
            )
        if norm not in NORMS:
            raise ValueError(f"projector norm {norm!r} is not one of {', '.join(NORMS)}")
        modules: list[nn.Module] = []
        width = in_dim
        for _ in range(layers - 1):
            modules.append(nn.Linear(width, hidden_dim, bias=norm == "none"))
            modules += [nn.Identity() if norm == "none" else NORMS[norm](hidden_dim), nn.ReLU(inplace=True)]
            width = hidden_dim
        super().__init__(*modules, nn.Linear(width, out_dim))

    def forward(self, representation: Tensor) -> Tensor:
        """(m, F) -> (m, D)."""
        embedding: Tensor = super().forward(representation)
        return embedding
