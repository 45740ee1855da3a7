"""What is drawn for every view: the ranges and probabilities of one distribution a view."""

from dataclasses import dataclass, replace

Range = tuple[float, float]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bicubic", "bilinear")
# Blur sigmas are given in pixels of views cut from 224-pixel pictures; other sizes scale with it.
PUBLISHED_SIZE = 224
# The least value of each range.
_LEAST = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": -180.0, "ratio": 0.0, "sigma": 0.0}


@dataclass(frozen=True)
class ViewDistribution:
    """The distribution of one view. Every default is "leave the picture alone".

    `resize_to` chooses between two crops. None: a random resized crop of `scale` and `ratio`. A number: the
    short side becomes `resize_to` pixels and the centre `size` x `size` of that is the view (evaluation).

    Raises:
        ValueError: a range or a probability that cannot be drawn from, with its name.
    """

    size: int  # side of the view, pixels
    scale: Range = (1.0, 1.0)  # share of the source's area
    ratio: Range = (3 / 4, 4 / 3)  # width / height, log-uniform
    interpolation: str = "bicubic"
    resize_to: int | None = None
    flip: float = 0.0  # probability, as the other single numbers below
    jitter: float = 0.0  # of the four colour ranges that follow
    brightness: Range = (1.0, 1.0)  # factors
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    hue: Range = (0.0, 0.0)  # degrees
    grayscale: float = 0.0
    blur: float = 0.0
    sigma: Range = (0.1, 2.0)  # pixels of the view
    solarize: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1 or (self.resize_to is not None and self.resize_to < self.size):
            raise ValueError(f"view size must be >= 1 and <= resize_to, got {self.size} and {self.resize_to}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {INTERPOLATIONS}, got '{self.interpolation}'")
        for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, got {getattr(self, name)}")
        for name, least in _LEAST.items():
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise ValueError(f"{name} must satisfy {least} <= low <= high, got {(low, high)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or self.ratio[0] <= 0 or self.sigma[0] <= 0:
            raise ValueError(
                f"need 0 < scale <= 1, ratio > 0 and sigma > 0, got {self.scale}, {self.ratio}, {self.sigma}"
            )


@dataclass(frozen=True)
class ViewSpec:
    """The views of one sample, global (large) views first, and the normalisation that ends every view.

    Raises:
        ValueError: no views, a view larger than the first, or a standard deviation of 0.
    """

    name: str
    views: tuple[ViewDistribution, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of pixels on 0..1, red green blue
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not self.views:
            raise ValueError(f"view spec '{self.name}' has no views")
        if list(self.sizes) != sorted(self.sizes, reverse=True):
            raise ValueError(f"view spec '{self.name}': global views come first, got sizes {self.sizes}")
        if min(self.std) <= 0:
            raise ValueError(f"view spec '{self.name}': std must be > 0, got {self.std}")

    @property
    def num_views(self) -> int:
        """Views of one sample."""
        return len(self.views)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of every view, pixels."""
        return tuple(view.size for view in self.views)

    def at_size(self, size: int) -> "ViewSpec":
        """The same spec with global views of `size` pixels, local ones of half of it, and blur in proportion.

        Raises:
            ValueError: a size below 2.
        """
        if size < 2:
            raise ValueError(f"{self.name}@{size}: the size of the global views must be >= 2")
        views = tuple(_resized(view, size, is_local=view.size < self.sizes[0]) for view in self.views)
        return replace(self, name=f"{self.name}@{size}", views=views)


def _resized(view: ViewDistribution, size: int, *, is_local: bool) -> ViewDistribution:
    """One view of a spec whose global views become `size` pixels large."""
    low, high = view.sigma
    factor = size / PUBLISHED_SIZE
    resize_to = None if view.resize_to is None else round(8 * size / 7)
    own_size = size // 2 if is_local else size
    return replace(view, size=own_size, resize_to=resize_to, sigma=(low * factor, high * factor))
