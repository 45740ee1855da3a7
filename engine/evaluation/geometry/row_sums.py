"""What one walk over the representations adds up, and the figures that have a closed form in these sums."""

# n images of this rank, N of all, D features, C classes

import math

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.accumulator import Sums, check_rows
from viewmill.methods.collapse import entropy

RANKME_EPSILON = 1e-7  # of RankMe's equation 2, as published for float32
_ROUNDING = torch.finfo(torch.float64).eps


class RowSums:
    """Sums over representations f and their directions u = f / |f|, in float64; of all ranks after `pool`.

    Args:
        dim: D, at least 2: in one dimension there are no angles.
        num_classes: C.

    Raises:
        ValueError: fewer than two features, or no class.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        if dim < 2 or num_classes < 1:
            raise ValueError(f"need two features and a class at least, got {dim} and {num_classes}")
        self.dim, self.num_classes = dim, num_classes
        shapes: dict[str, tuple[int, ...]] = {
            "directions": (dim,),
            "outer": (dim, dim),
            "raw_outer": (dim, dim),
            "class_directions": (num_classes, dim),
            "class_counts": (num_classes,),
            "hoyer": (),
            "zeros": (),
        }
        self._sums = Sums("RowSums", shapes)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Adds representations (n, D) with their classes (n,) in 0 .. C - 1, n >= 0.

        Raises:
            ValueError: other shapes, numbers not finite, a class that is none, or a representation of zeros.
        """
        check_rows(features, self.dim, "representations")
        check_labels(labels, len(features), self.num_classes)
        f_nD = features.double()
        u_nD = directions(f_nD)
        of_classes_CD = u_nD.new_zeros(self.num_classes, self.dim).index_add_(0, labels, u_nD)
        root = math.sqrt(self.dim)
        self._sums.add(
            len(features),
            directions=u_nD.sum(dim=0),
            outer=u_nD.T @ u_nD,
            raw_outer=f_nD.T @ f_nD,
            class_directions=of_classes_CD,
            class_counts=labels.bincount(minlength=self.num_classes).double(),
            hoyer=((root - u_nD.abs().sum(dim=1)) / (root - 1)).sum(),
            zeros=(f_nD == 0).double().sum(),
        )

    def pool(self, group: ProcessGroup | None = None) -> None:
        """Takes in what the other ranks have added; all of them call it."""
        self._sums.pool(group)

    @property
    def count(self) -> int:
        """N after `pool`, n before it."""
        return self._sums.count

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's own sums."""
        return self._sums.state_dict()

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Takes in the sums of another part of the images. Raises ValueError for one of other settings."""
        self._sums.add_state(state)

    def anisotropy(self) -> float:
        """Mean cosine of two different images: (|sum_i u_i|^2 - N) / (N (N - 1)), from -1/(N-1) to 1.

        Source: Ethayarajh (2019), How contextual are contextualized word representations?, section 3.3.
        """
        count = self.count
        return float((self._sums["directions"].square().sum() - count) / (count * (count - 1)))

    def center_norm(self) -> float:
        """Length of the mean direction, |1/N sum_i u_i|: 0 of a balanced sphere, 1 of a point.

        Source: HyDeS, Table III, "center vector norm", after Jha et al. (2024), The common stability
        mechanism behind most self-supervised learning approaches.
        """
        return float(self._sums.mean("directions").norm())

    def feature_correlation(self) -> float | None:
        """Mean |Pearson correlation| over the images of two different features of u.

        A feature that never changes has no correlation and is left out; None where fewer than two are left.
        Source: HyDeS, Table III, "feature correlation".
        """
        covariance = self._covariance()
        power = covariance.diagonal()
        varies = power > 1e-12 * self._sums.mean("outer").diagonal()  # less is rounding
        if int(varies.sum()) < 2:
            return None
        std = power[varies].sqrt()
        correlation = (covariance[varies][:, varies] / std.outer(std)).abs()
        count = len(std)
        return float((correlation.sum() - correlation.diagonal().sum()) / (count * (count - 1)))

    def embedding_rank(self) -> float:
        """Effective rank of the centred directions: exp of the entropy of their normalised singular values.

        From 1 to min(N - 1, D); 1 where all images are the same.
        Source: Roy and Vetterli (2007), The effective rank, definition 1; HyDeS, Table III, "embed. rank".
        """
        return effective_rank(_roots(self._covariance()))

    def rankme(self) -> float:
        """exp(- sum_k p_k log p_k), p_k = s_k / sum_j s_j + 1e-7, of the singular values s of f as it is.

        Neither centred nor normalised; the 1e-7 of each of the min(N, D) values counts.
        Source: Garrido et al. (2023), RankMe, equation 2.
        """
        values = _roots(self._sums["raw_outer"]).sort(descending=True).values[: self.count]
        shares = values / values.sum() + RANKME_EPSILON
        return float(entropy(shares).exp())

    def centroid_rank(self) -> float:
        """Effective rank (as `embedding_rank`) of the C x D class centroids, less their mean: 1 to C - 1.

        A centroid is the mean direction of a class. Classes without images have none.
        Source: HyDeS, Table III, "centroid rank".
        """
        centroids = self.centroids()[self._sums["class_counts"] > 0]
        return effective_rank(torch.linalg.svdvals(centroids - centroids.mean(dim=0)))

    def centroids(self) -> Tensor:
        """Mean direction of each class: (C, D) float64; NaN for a class without images."""
        return self._sums["class_directions"] / self._sums["class_counts"][:, None]

    def positive_cosine(self) -> float | None:
        """Mean cosine of two different images of one class; None where no class has two.

        sum_c (|sum_{i in c} u_i|^2 - n_c) / sum_c n_c (n_c - 1): every pair counts alike.
        """
        counts = self._sums["class_counts"]
        pairs = float((counts * (counts - 1)).sum())
        total = self._sums["class_directions"].square().sum() - self.count
        return float(total / pairs) if pairs else None

    def alignment(self) -> float | None:
        """Mean |u_i - u_j|^2 of two different images of one class, 0 to 4; None where no class has two.

        Source: Wang and Isola (2020), Understanding contrastive representation learning through alignment and
        uniformity, equation 1 with alpha = 2; positives are images of one class here, not views of one image.
        """
        cosine = self.positive_cosine()
        return None if cosine is None else 2 - 2 * cosine

    def hoyer_sparsity(self) -> float:
        """Mean over images of (sqrt D - |f|_1 / |f|_2) / (sqrt D - 1): 0 of equal features, 1 of one alone.

        Source: Hoyer (2004), Non-negative matrix factorization with sparseness constraints, section 3.1.
        """
        return float(self._sums.mean("hoyer"))

    def zero_fraction(self) -> float:
        """Share of the N D numbers that are exactly zero."""
        return float(self._sums.mean("zeros")) / self.dim

    def _covariance(self) -> Tensor:
        mean = self._sums.mean("directions")
        return self._sums.mean("outer") - mean.outer(mean)


def directions(features: Tensor) -> Tensor:
    """u = f / |f| of (n, D), in float64.

    Raises:
        ValueError: a representation of zeros, which has no direction.
    """
    lengths = features.double().norm(dim=1)
    if not bool((lengths > 0).all()):
        raise ValueError(
            f"{int((lengths == 0).sum())} of {len(lengths)} representations are zero in every feature and "
            "have no direction; the backbone has collapsed, leave out geometry and semantics"
        )
    return features.double() / lengths[:, None]


def check_labels(labels: Tensor, count: int, num_classes: int) -> None:
    """Refuses labels that are no class each.

    Raises:
        ValueError: says how many there are of what.
    """
    if labels.shape != (count,):
        raise ValueError(f"{count} representations with labels {tuple(labels.shape)}; give one label each")
    wrong = int(((labels < 0) | (labels >= num_classes)).sum())
    if wrong:
        raise ValueError(
            f"{wrong} of {count} labels are outside 0 .. {num_classes - 1}; every image needs one of the "
            f"{num_classes} classes"
        )


def effective_rank(singular_values: Tensor) -> float:
    """exp(- sum_k p_k log p_k), p_k = s_k / sum_j s_j; 1 where all are zero. Source: Roy and Vetterli."""
    total = singular_values.sum()
    return float(entropy(singular_values / total).exp()) if total > 0 else 1.0


def _roots(gram_DD: Tensor) -> Tensor:
    """Singular values, up to a factor, of the matrix whose Gram matrix this is: (D,).

    An eigenvalue below D rounding errors of the largest is none: its root would be 1e-7 of the largest.
    """
    eigenvalues = torch.linalg.eigvalsh((gram_DD + gram_DD.T) / 2)
    floor = eigenvalues[-1].clamp(min=0) * len(gram_DD) * _ROUNDING
    return eigenvalues.where(eigenvalues > floor, eigenvalues.new_zeros(())).sqrt()
