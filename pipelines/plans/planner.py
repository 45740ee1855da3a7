"""Every parameter of every view, drawn for whole batches from keyed words.

Bit-identical on every machine: words are whole numbers, and all that follows is + - * / sqrt and rounding of
float64, which IEEE 754 fixes, with an exponential of our own (a library's last bit depends on the CPU).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import Context, Decimal

import numpy as np
from numpy.typing import ArrayLike
from viewmill.pipelines.philox import Stream, below, check_seed, keyed_words, uniform
from viewmill.pipelines.plans.spec import ViewDistribution, ViewSpec

PLAN_VERSION = 1  # part of every data position: a change of any draw is a change of this number

_CROP_TRIES = 10
# Lanes of four words. First the tries of the crop, two a lane (area, aspect, area, aspect): lane 0 is drawn
# for all, the others where the first try did not fit. Then the choices, the colours, and blur with the place.
_CHOICES = _CROP_TRIES // 2
_COLOURS, _BLUR_AND_PLACE = _CHOICES + 1, _CHOICES + 2
_FIRST_LANES = np.array([0, _CHOICES, _COLOURS, _BLUR_AND_PLACE])
_VIEW_SHIFT = 8  # a lane is view << 8 | which four words of the view
_DIGITS = Context(prec=28)


@dataclass(frozen=True, eq=False)
class ViewPlan:
    """The parameters of V views of n images; every array is (n, V)."""

    top: np.ndarray  # int32, pixels of the upright image, as the next three: the crop box
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    flip: np.ndarray  # bool, left to right
    brightness: np.ndarray  # float32 factors, as the next two; 1 leaves the picture alone
    contrast: np.ndarray
    saturation: np.ndarray  # 0 is a grey picture
    hue: np.ndarray  # float32, degrees
    sigma: np.ndarray  # float32, pixels of the view; 0 is no blur
    solarize: np.ndarray  # bool

    def __len__(self) -> int:
        return len(self.top)

    @property
    def num_views(self) -> int:
        """Views of one image."""
        return self.top.shape[1]

    def select(self, rows: ArrayLike) -> "ViewPlan":
        """The plan of these rows alone, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        return ViewPlan(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


class ViewPlanner:
    """Draws plans: a function of (seed, epoch, id, view) and of the image's size, with no state.

    Raises:
        ValueError: the seed is outside [0, 2**64).
    """

    def __init__(self, spec: ViewSpec, seed: int) -> None:
        check_seed(seed)
        self.spec = spec
        self.seed = seed
        views = spec.views
        self._is_resized = np.array([view.resize_to is not None for view in views])
        # Side of the box of the evaluation views alone, as a share of the short side.
        self._centre_share = np.array([view.size / view.resize_to for view in views if view.resize_to])
        self._scale = _Range(views, "scale")
        self._ratio_low, self._ratio_high = np.array([view.ratio for view in views]).T
        self._log_ratio = _Range(views, "ratio", logarithmic=True)
        self._colours = [_Range(views, name) for name in ("brightness", "contrast", "saturation", "hue")]
        self._sigma = _Range(views, "sigma")
        # (4, 1, V), in the order of the words of the lane _CHOICES.
        choices = [(view.flip, view.jitter, view.grayscale, view.solarize) for view in views]
        self._choice_probabilities = np.array(choices, dtype=np.float64).T[:, None, :]
        self._blur_probability = np.array([view.blur for view in views])

    def draw(self, epoch: int, ids: ArrayLike, sizes: ArrayLike) -> ViewPlan:
        """The plan of these samples in this epoch; a permutation of the ids permutes its rows, nothing else.

        Args:
            epoch: 0 to 2**32 - 1.
            ids: (n,) sample ids >= 0.
            sizes: (n, 2) width and height of the upright images, pixels, >= 1.

        Raises:
            ValueError: the shapes do not fit, an id is negative or a size is below 1.
        """
        ids, sizes = np.asarray(ids, dtype=np.int64), np.asarray(sizes, dtype=np.int64)
        if ids.ndim != 1 or sizes.shape != (len(ids), 2):
            raise ValueError(f"need ids (n,) and sizes (n, 2), got {ids.shape} and {sizes.shape}")
        if len(ids) and (ids.min() < 0 or sizes.min() < 1):
            raise ValueError(f"ids must be >= 0 and sizes >= 1, got {ids.min()} and {sizes.min()}")
        words = self._words(epoch, ids, _FIRST_LANES)  # (4 words, 4 lanes, n, V)
        crop, choices, colours, blur = words[:, 0], words[:, 1], words[:, 2], words[:, 3]
        top, left, height, width = self._boxes(epoch, ids, sizes, crop, blur[2:])
        flip, jitter, gray, solarize = uniform(choices) < self._choice_probabilities
        brightness, contrast, saturation, hue = (
            np.where(jitter, colour.between(uniform(word)), neutral)
            for colour, word, neutral in zip(self._colours, colours, (1.0, 1.0, 1.0, 0.0), strict=True)
        )
        blurred = uniform(blur[0]) < self._blur_probability
        return ViewPlan(
            top=top.astype(np.int32),
            left=left.astype(np.int32),
            height=height.astype(np.int32),
            width=width.astype(np.int32),
            flip=flip,
            brightness=brightness.astype(np.float32),
            contrast=contrast.astype(np.float32),
            saturation=np.where(gray, 0.0, saturation).astype(np.float32),
            hue=hue.astype(np.float32),
            sigma=np.where(blurred, self._sigma.between(uniform(blur[1])), 0.0).astype(np.float32),
            solarize=solarize,
        )

    def _words(self, epoch: int, ids: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """Words (4, lanes, n, V) of all views."""
        views = np.arange(self.spec.num_views) << _VIEW_SHIFT
        return keyed_words(self.seed, Stream.VIEWS, epoch, ids[:, None], views | lanes[:, None, None])

    def _boxes(
        self, epoch: int, ids: np.ndarray, sizes: np.ndarray, first: np.ndarray, place: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Top, left, height, width (n, V) of every crop.

        first: words (4, n, V) of lane 0; place: words (2, n, V) that choose where a box lies.
        """
        image_width, image_height = sizes[:, :1], sizes[:, 1:]
        width, height, fits = self._try_sides(image_width, image_height, first[:2], slice(None))
        centred = np.zeros(fits.shape, dtype=bool)
        rows, views = np.nonzero(~fits & ~self._is_resized)
        if len(rows):
            again = self._retry(epoch, ids[rows], sizes[rows], views)
            width[rows, views], height[rows, views], centred[rows, views] = again
        if self._is_resized.any():
            side = np.rint(sizes.min(axis=1, keepdims=True) * self._centre_share)
            side = np.maximum(side, 1).astype(np.int64)
            width[:, self._is_resized] = height[:, self._is_resized] = side
            centred[:, self._is_resized] = True
        room_below, room_right = image_height - height, image_width - width
        top = np.where(centred, room_below // 2, below(place[0], room_below + 1))
        left = np.where(centred, room_right // 2, below(place[1], room_right + 1))
        return top, left, height, width

    def _try_sides(
        self, image_width: np.ndarray, image_height: np.ndarray, words: np.ndarray, views: np.ndarray | slice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Width and height of crops of random area and aspect, and which of them fit into their image."""
        target = (image_width * image_height) * self._scale.between(uniform(words[0]), views)
        ratio = exp(self._log_ratio.between(uniform(words[1]), views))
        width, height = np.rint(np.sqrt(target * ratio)), np.rint(np.sqrt(target / ratio))
        fits = (width >= 1) & (width <= image_width) & (height >= 1) & (height <= image_height)
        return width.astype(np.int64), height.astype(np.int64), fits

    def _retry(
        self, epoch: int, ids: np.ndarray, sizes: np.ndarray, views: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sides of the crops (m,) whose first try did not fit: the first of all tries, or the fallback.

        ids, views (m,) and sizes (m, 2) have one entry a view of one image. Third array: which are centred.
        """
        image_width, image_height = sizes.T
        lanes = (views << _VIEW_SHIFT) | np.arange(_CHOICES)[:, None]
        words = keyed_words(self.seed, Stream.VIEWS, epoch, ids, lanes)  # (4, lanes, m)
        tries = words.reshape(2, 2, _CHOICES, -1).transpose(1, 2, 0, 3).reshape(2, _CROP_TRIES, -1)
        width, height, fits = self._try_sides(image_width, image_height, tries, views)
        chosen = fits.argmax(axis=0), np.arange(len(ids))
        width, height, centred = width[chosen], height[chosen], np.logical_not(fits.any(axis=0))
        lost = np.flatnonzero(centred)
        if len(lost):
            fallback = self._fallback(views[lost], image_width[lost], image_height[lost])
            width[lost], height[lost] = fallback
        return width, height, centred

    def _fallback(
        self, views: np.ndarray, image_width: np.ndarray, image_height: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """torchvision's last resort: sides of the largest box whose aspect is allowed."""
        narrowest, widest = self._ratio_low[views], self._ratio_high[views]
        aspect = image_width / image_height
        width = np.where(aspect > widest, np.rint(image_height * widest), image_width)
        height = np.where(aspect < narrowest, np.rint(image_width / narrowest), image_height)
        return np.clip(width, 1, image_width), np.clip(height, 1, image_height)


class _Range:
    """One range of every view, as arrays (V,), from which many values are drawn at once."""

    def __init__(self, views: Sequence[ViewDistribution], name: str, *, logarithmic: bool = False) -> None:
        bounds = np.array([getattr(view, name) for view in views], dtype=np.float64)
        if logarithmic:
            # decimal's logarithm is correctly rounded to its 28 digits, so it is the same everywhere.
            bounds = np.array(
                [[float(Decimal(float(bound)).ln(_DIGITS)) for bound in pair] for pair in bounds]
            )
        self._low = bounds[:, 0]
        self._span = bounds[:, 1] - bounds[:, 0]

    def between(self, share: np.ndarray, views: np.ndarray | slice = slice(None)) -> np.ndarray:
        """low + share (high - low) of these views."""
        return self._low[views] + share * self._span[views]


def exp(exponent: np.ndarray) -> np.ndarray:
    """e**x in float64, bit-identical on every machine, within 1e-15 relative for |x| < 300."""
    halvings = np.rint(exponent * 1.4426950408889634)  # x = k ln 2 + r, |r| <= 0.35
    # ln 2 in two pieces: the first has 32 zero bits at its end, so k times it is exact.
    rest = (exponent - halvings * 0.6931471803691238) - halvings * 1.9082149292705877e-10
    power = np.full_like(rest, _EXP_TERMS[0])
    for term in _EXP_TERMS[1:]:
        power = power * rest + term
    return np.ldexp(power, halvings.astype(np.int32))


# 1/13!, ..., 1/1!, 1/0!: the next term is below 1e-17 for |r| <= 0.35.
_EXP_TERMS = [
    1 / f for f in (6227020800, 479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2, 1, 1)
]
