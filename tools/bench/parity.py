"""`bench parity`: how far the pixels of every executor are from the reference's, by operator and preset."""

import io
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from viewmill.pipelines.executors.executor import dali_is_installed, ffcv_is_installed
from viewmill.pipelines.executors.feeding import fed_executor
from viewmill.pipelines.executors.view_format import DTYPES, ViewFormat
from viewmill.pipelines.plans.spec import ViewDistribution, ViewSpec
from viewmill.pipelines.views import PRESETS, ViewPlan, ViewPlanner, preset
from viewmill.shards.conversion.options import Options
from viewmill.shards.convert import convert_with
from viewmill.shards.images import probe
from viewmill.shards.manifest import Dataset
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.photographs import load_photograph
from viewmill.tools.tables import new_table

NAMES = ("astronaut", "cat", "coffee", "flower", "rocket", "temple")
# The bounds that are published: mean absolute difference over a batch, of 255. DESIGN allows 2 to any.
# FFCV decodes JPEGs with a fast, coarser DCT; resident differs from host by the order of its sums alone.
BOUNDS = {"host": 0.01, "resident": 0.01, "dali": 0.01, "dali-operators": 1.0, "ffcv": 1.5}
DESIGN_BOUND = 2.0
MOST_PSNR = 150.0  # stands for equal pixels too, whose PSNR JSON cannot write
BEGIN, END = "<!-- begin: viewmill bench parity -->", "<!-- end: viewmill bench parity -->"
COLUMNS = ("max", "mean", "psnr")


@dataclass(frozen=True)
class Case:
    """One row of the table: views, what their plan is changed to, and their format."""

    spec: ViewSpec
    changes: dict[str, float] = field(default_factory=dict)  # parameter -> its value in every view
    view_format: ViewFormat = ViewFormat()  # noqa: RUF009 - frozen


def cases(scale: float = 1.0) -> dict[str, Case]:
    """Every case by name; `scale` shrinks the views (and with them the time) for tests."""

    def crop(size: int, interpolation: str, area: tuple[float, float]) -> ViewSpec:
        view = ViewDistribution(size=max(round(size * scale), 8), scale=area, interpolation=interpolation)
        return ViewSpec("crop", (view,))

    smaller, larger = (0.2, 0.8), (0.02, 0.05)
    plain = crop(96, "bicubic", smaller)
    found = {
        f"crop and resize, {interpolation}, {way}": Case(crop(size, interpolation, area))
        for interpolation in ("bicubic", "bilinear")
        for way, size, area in (("smaller", 96, smaller), ("larger", 224, larger))
    }
    changes: dict[str, dict[str, float]] = {
        "flip": {"flip": True},
        "brightness 0.6": {"brightness": 0.6},
        "brightness 1.4": {"brightness": 1.4},
        "contrast 0.6": {"contrast": 0.6},
        "contrast 1.8": {"contrast": 1.8},
        "grey (saturation 0)": {"saturation": 0.0},
        "saturation 1.8": {"saturation": 1.8},
        "hue -72": {"hue": -72.0},
        "hue 36": {"hue": 36.0},
        "four colours at once": {"brightness": 1.4, "contrast": 1.4, "saturation": 1.2, "hue": 36.0},
        "blur 0.1": {"sigma": 0.1},
        "blur 0.7": {"sigma": 0.7},
        "blur 2.0": {"sigma": 2.0},
        "solarize": {"solarize": True},
    }
    found |= {name: Case(plain, values) for name, values in changes.items()}
    for dtype in DTYPES:
        for channels_last in (False, True):
            name = f"{dtype}, channels {'last' if channels_last else 'first'}"
            found[name] = Case(plain, view_format=ViewFormat(dtype, channels_last))
    sized = {name: preset(f"{name}@{round(PRESETS[name].sizes[0] * scale)}") for name in PRESETS}
    return found | {f"preset {name}": Case(spec) for name, spec in sized.items()}


def installed() -> list[str]:
    """The executors that can be compared here, besides the reference."""
    dali = ["dali", "dali-operators"] if dali_is_installed() else []
    return ["host", "resident", *dali, *(["ffcv"] if ffcv_is_installed() else [])]


def run(
    *, executors: Sequence[str] = (), progress: Callable[[str], None] | None = None, scale: float = 1.0
) -> dict[str, Any]:
    """Compares executors with the reference on six photographs.

    Args:
        executors: NAME, or NAME@DEVICE for one that knows more than the CPU; none: all that are installed.
        progress: told what is compared.
        scale: of the views' sizes.

    Returns:
        JSON-able: executor -> case -> max and mean absolute difference (of 255) and PSNR (dB); fingerprint.

    Raises:
        ValueError, ImportError: as `make_executor`.
    """
    tell, images = progress or (lambda _: None), encoded()
    names = list(executors) or installed()
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
    with data_sets(images) as sets:
        for case_name, case in cases(scale).items():
            plan = plan_of(case, images)
            expected = views_of("reference", case, sets, plan)
            for name in names:
                tell(f"{name}: {case_name}")
                found[name][case_name] = compared(views_of(name, case, sets, plan), expected, case)
    return {
        "bench": "parity",
        "photographs": list(NAMES),
        "bounds": {name: bound_of(name) for name in names},
        "executors": found,
        "fingerprint": fingerprint("numba", "simplejpeg"),
    }


def bound_of(executor: str) -> float:
    """The published bound of the mean absolute difference, of 255."""
    return BOUNDS.get(executor.partition("@")[0], DESIGN_BOUND)


def encoded() -> list[bytes]:
    """The photographs as JPEGs of quality 90, half of them with coarse chroma."""
    images = []
    for number, name in enumerate(NAMES):
        buffer = io.BytesIO()
        Image.fromarray(load_photograph(name)).save(buffer, "JPEG", quality=90, subsampling=2 * (number % 2))
        images.append(buffer.getvalue())
    return images


def plan_of(case: Case, images: list[bytes]) -> ViewPlan:
    """The plan of these images, changed as the case says."""
    headers = [probe(image) for image in images]
    sizes = np.array([(header.width, header.height) for header in headers])
    plan = ViewPlanner(case.spec, seed=0).draw(0, np.arange(len(images)), sizes)
    changes = {name: np.full_like(getattr(plan, name), value) for name, value in case.changes.items()}
    return replace(plan, **changes)


@contextmanager
def data_sets(images: list[bytes]) -> Iterator[dict[str, Dataset]]:
    """The images as tars and as betons, in their order: one data set of each kind."""
    with tempfile.TemporaryDirectory(prefix="viewmill-parity-") as folder:
        source = Path(folder) / "images"
        source.mkdir()
        for name, image in zip(NAMES, images, strict=True):  # whose order is that of the paths
            (source / f"{name}.jpg").write_bytes(image)
        sets = {}
        for kind in ("webdataset", "ffcv"):
            convert_with(source, Path(folder) / kind, Options(shuffle_seed=None, format=kind))
            sets[kind] = Dataset.open(Path(folder) / kind)
        try:
            yield sets
        finally:
            for dataset in sets.values():
                dataset.close()


def views_of(name: str, case: Case, sets: dict[str, Dataset], plan: ViewPlan) -> list[torch.Tensor]:
    """What an executor makes of the plan."""
    executor, _, device = name.partition("@")
    runner, fetch = fed_executor(
        executor,
        sets["ffcv" if executor == "ffcv" else "webdataset"],
        case.spec,
        max_batch=len(plan),
        num_threads=1,
        device=device or "cpu",
        view_format=case.view_format,
    )
    try:
        return runner.run(fetch(np.arange(len(plan))), plan)
    finally:
        runner.close()


def compared(views: list[torch.Tensor], expected: list[torch.Tensor], case: Case) -> dict[str, float]:
    """Largest and mean absolute difference, of 255, and the PSNR over all pixels of all views."""
    pairs = zip(views, expected, strict=True)
    gaps = [pixels(ours, case) - pixels(theirs, case) for ours, theirs in pairs]
    flat = torch.cat([gap.flatten() for gap in gaps])
    square = float(flat.square().mean())
    psnr = 10 * math.log10(255**2 / square) if square else MOST_PSNR
    return {
        "max": float(flat.abs().max()),
        "mean": float(flat.abs().mean()),
        "psnr": min(psnr, MOST_PSNR),
    }


def pixels(view: torch.Tensor, case: Case) -> torch.Tensor:
    """A view on 0..255, float64 on the CPU."""
    view = view.cpu().double()
    if not case.view_format.normalised:
        return view
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (case.spec.mean, case.spec.std))
    return (view * std + mean) * 255


def shown(figures: dict[str, float]) -> tuple[str, ...]:
    """Max, mean and PSNR of one cell."""
    psnr = f"{figures['psnr']:.1f}" if figures["psnr"] < MOST_PSNR else f">= {MOST_PSNR:.0f}"
    return f"{figures['max']:.3g}", f"{figures['mean']:.2g}", psnr


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    names = list(result["executors"])
    rows = [(case, *cells) for case, cells in _rows(result)]
    headings = tuple(f"{name} {column}" for name in names for column in COLUMNS)
    return new_table("differences from the reference, of 255; PSNR in dB", ("case", *headings), rows)


def markdown(result: dict[str, Any]) -> str:
    """The figures as a table of a README, with the bounds."""
    names = list(result["executors"])
    headings = [f"{name}: {column}" for name in names for column in ("max", "mean", "PSNR")]
    lines = [
        "| of 255; PSNR in dB | " + " | ".join(headings) + " |",
        "|---" * (1 + len(headings)) + "|",
        *("| " + " | ".join((case, *cells)) + " |" for case, cells in _rows(result)),
        "| bound | " + " | ".join(f" | **{result['bounds'][name]:g}** | " for name in names) + " |",
    ]
    return "\n".join(lines)


def beyond_bounds(result: dict[str, Any]) -> list[str]:
    """What lies over the published bound: a line each."""
    return [
        f"{name}: '{case}' differs by {figures['mean']:.3g} of 255 in the mean, the bound is {bound:g}"
        for name, bound in result["bounds"].items()
        for case, figures in result["executors"][name].items()
        if figures["mean"] > bound
    ]


def _rows(result: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    found = result["executors"]
    first = next(iter(found.values()))
    return [(case, tuple(cell for of in found.values() for cell in shown(of[case]))) for case in first]


def write_into(readme: Path, result: dict[str, Any]) -> None:
    """Put the table between the markers of a README.

    Raises:
        ValueError: the file does not hold both markers.
    """
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme}: no lines '{BEGIN}' and '{END}', between which the table goes")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{markdown(result)}\n{END}{after}", encoding="utf-8")
