"""`bench draws`: the distribution of every drawn parameter beside what torchvision's own transforms draw."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.table import Table
from scipy import stats
from torchvision import transforms
from viewmill.pipelines.plans.planner import ViewPlan, ViewPlanner
from viewmill.pipelines.plans.spec import ViewDistribution, ViewSpec
from viewmill.tools.bench.fingerprint import fingerprint

FAMILY_ERROR = 0.01  # chance that equal distributions fail any of the tests (Bonferroni)
RATIO = (3 / 4, 4 / 3)
# Width, height and area range; of the narrow ones some, of the last two all crops fall back to the centre.
CROPS = [
    (500, 375, (0.08, 1.0)),
    (375, 500, (0.4, 1.0)),
    (500, 375, (0.05, 0.4)),
    (224, 224, (0.08, 1.0)),
    (640, 64, (0.08, 1.0)),
    (64, 640, (0.08, 1.0)),
    (1000, 20, (0.08, 1.0)),
    (20, 1000, (0.08, 1.0)),
]
BRIGHTNESS, CONTRAST, SATURATION, HUE = (0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)
SIGMA = (0.1, 2.0)
CHOICES = {"flip": 0.5, "jitter": 0.8, "grayscale": 0.2, "blur": 0.1, "solarize": 0.2}


def run(draws: int, *, seed: int = 0, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Compares `draws` draws of each parameter with as many of torchvision's `get_params` or transforms.

    Two-sample Kolmogorov-Smirnov tests for numbers, chi-square tests of 2 x 2 tables for choices. Both sides
    have fixed seeds, so the p-values are facts of this planner and this torchvision.

    Returns:
        JSON-able: settings, every test with its statistic and p-value, the threshold (0.01 over the number
        of tests) and whether all pass, fingerprint.

    Raises:
        ValueError: fewer than 100 draws.
    """
    if draws < 100:
        raise ValueError(f"draws must be at least 100, got {draws}")
    tell = progress or (lambda _: None)
    tests: list[dict[str, Any]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for width, height, scale in CROPS:
            tell(f"crops of {width} x {height}")
            tests += compare_crops(width, height, scale, draws, seed)
        tell("colours and blur")
        tests += compare_colours(draws, seed)
        tell("choices")
        tests += compare_choices(draws, seed)
    least, threshold = min(test["p"] for test in tests), FAMILY_ERROR / len(tests)
    return {
        "bench": "draws",
        "draws": draws,
        "seed": seed,
        "tests": tests,
        "least_p": least,
        "threshold": threshold,
        "passed": least > threshold,
        "fingerprint": fingerprint("torchvision", "scipy"),
    }


def compare_crops(
    width: int, height: int, scale: tuple[float, float], draws: int, seed: int
) -> list[dict[str, Any]]:
    """Tests of area, aspect, edges and the share of fallbacks of the crops of one size of image."""
    plan = drawn(ViewDistribution(32, scale=scale, ratio=RATIO), draws, seed, width, height)
    ours = np.stack([plan.top, plan.left, plan.height, plan.width])[:, :, 0]
    image = torch.empty(1, height, width, dtype=torch.uint8)
    get_params = transforms.RandomResizedCrop.get_params
    theirs = np.array([get_params(image, list(scale), list(RATIO)) for _ in range(draws)]).T
    setting = f"{width} x {height}, area {scale[0]:g}-{scale[1]:g}"
    centre = fallback_box(width, height)
    fell_back = [(boxes == centre[:, None]).all(axis=0) for boxes in (ours, theirs)]
    found = [chi_square("crop: fallback to the centre", setting, *fell_back)]
    if all(fell.all() for fell in fell_back):
        return found  # one box, the same on both sides
    return found + [
        kolmogorov(f"crop: {name}", setting, quantity(*ours), quantity(*theirs))
        for name, quantity in CROP_QUANTITIES.items()
    ]


CROP_QUANTITIES: dict[str, Callable[..., np.ndarray]] = {
    "area": lambda top, left, height, width: height * width,
    "aspect": lambda top, left, height, width: width / height,
    "top": lambda top, left, height, width: top,
    "left": lambda top, left, height, width: left,
    "bottom": lambda top, left, height, width: top + height,
    "right": lambda top, left, height, width: left + width,
}


def fallback_box(width: int, height: int) -> np.ndarray:
    """Top, left, height, width of the largest centred box of an allowed aspect: (4,)."""
    box_width = min(width, round(height * RATIO[1]))
    box_height = min(height, round(width / RATIO[0]))
    return np.array([(height - box_height) // 2, (width - box_width) // 2, box_height, box_width])


def compare_colours(draws: int, seed: int) -> list[dict[str, Any]]:
    """Tests of the four colour factors and of the blur's sigma, always applied."""
    view = ViewDistribution(
        32, jitter=1.0, brightness=BRIGHTNESS, contrast=CONTRAST, saturation=SATURATION,
        hue=(360 * HUE[0], 360 * HUE[1]), blur=1.0, sigma=SIGMA,
    )  # fmt: skip
    plan = drawn(view, draws, seed)
    ranges = [list(pair) for pair in (BRIGHTNESS, CONTRAST, SATURATION, HUE)]
    theirs = np.array([transforms.ColorJitter.get_params(*ranges)[1:] for _ in range(draws)], dtype=float).T
    ours = [plan.brightness, plan.contrast, plan.saturation, plan.hue / 360]
    names = ("brightness", "contrast", "saturation", "hue")
    found = [
        kolmogorov(name, f"{low:g} to {high:g}", mine[:, 0], other)
        for name, (low, high), mine, other in zip(names, ranges, ours, theirs, strict=True)
    ]
    sigma = np.array([transforms.GaussianBlur.get_params(*SIGMA) for _ in range(draws)])
    return [*found, kolmogorov("blur sigma", f"{SIGMA[0]:g} to {SIGMA[1]:g}", plan.sigma[:, 0], sigma)]


def compare_choices(draws: int, seed: int) -> list[dict[str, Any]]:
    """Tests of how often each operator is applied, by what torchvision's transforms do to a picture."""
    view = ViewDistribution(
        32,
        flip=CHOICES["flip"],
        jitter=CHOICES["jitter"],
        hue=(1.0, 2.0),
        grayscale=CHOICES["grayscale"],
        blur=CHOICES["blur"],
        solarize=CHOICES["solarize"],
    )
    plan = drawn(view, draws, seed)
    ours = {
        "flip": plan.flip,
        "jitter": plan.hue != 0,
        "grayscale": plan.saturation == 0,
        "blur": plan.sigma > 0,
        "solarize": plan.solarize,
    }
    picture = torch.tensor([[[10, 200]], [[60, 30]], [[90, 170]]], dtype=torch.uint8)
    invert = transforms.RandomInvert(1.0)  # stands for an operator inside RandomApply, and shows at once
    theirs: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "flip": transforms.RandomHorizontalFlip(CHOICES["flip"]),
        "jitter": transforms.RandomApply([invert], CHOICES["jitter"]),
        "grayscale": transforms.RandomGrayscale(CHOICES["grayscale"]),
        "blur": transforms.RandomApply([invert], CHOICES["blur"]),
        "solarize": transforms.RandomSolarize(128, CHOICES["solarize"]),
    }
    return [
        chi_square(
            f"choice: {name}",
            f"probability {probability:g}",
            ours[name][:, 0],
            np.array([not torch.equal(theirs[name](picture), picture) for _ in range(draws)]),
        )
        for name, probability in CHOICES.items()
    ]


def drawn(view: ViewDistribution, draws: int, seed: int, width: int = 500, height: int = 375) -> ViewPlan:
    """The plan of one view of so many images."""
    sizes = np.tile([width, height], (draws, 1))
    return ViewPlanner(ViewSpec("draws", (view,)), seed).draw(0, np.arange(draws), sizes)


def kolmogorov(parameter: str, setting: str, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Whether two samples are of one distribution; ties, as of whole pixels, only make p larger."""
    result = stats.ks_2samp(np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float), method="asymp")
    return row(parameter, setting, "Kolmogorov-Smirnov", float(result.statistic), float(result.pvalue))


def chi_square(parameter: str, setting: str, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Whether two choices are as frequent; p is 1 where both always or never happen."""
    counts = np.array([[side.sum(), side.size - side.sum()] for side in (ours, theirs)])
    if not counts.all(axis=1).any() and (counts[0] * counts[1].sum() == counts[1] * counts[0].sum()).all():
        return row(parameter, setting, "chi-square", 0.0, 1.0)
    result = stats.chi2_contingency(counts, correction=False)
    return row(parameter, setting, "chi-square", float(result.statistic), float(result.pvalue))


def row(parameter: str, setting: str, test: str, statistic: float, p: float) -> dict[str, Any]:
    return {"parameter": parameter, "setting": setting, "test": test, "statistic": statistic, "p": p}


def table(result: dict[str, Any]) -> Table:
    """Every test, for the terminal."""
    verdict = "all pass" if result["passed"] else "SOME FAIL"
    shown = Table(
        title=f"{result['draws']:,} draws beside torchvision's: least p {result['least_p']:.2g}, "
        f"threshold {result['threshold']:.2g}: {verdict}"
    )
    for heading in ("parameter", "setting", "test", "statistic", "p"):
        shown.add_column(heading, justify="right" if heading in ("statistic", "p") else "left")
    for test in result["tests"]:
        shown.add_row(
            test["parameter"], test["setting"], test["test"], f"{test['statistic']:.4g}", f"{test['p']:.3g}"
        )
    return shown
