"""The view presets by name; with the spec, planner and plan, all that other rooms need of views."""

import difflib

from viewmill.pipelines.plans.planner import PLAN_VERSION, ViewPlan, ViewPlanner
from viewmill.pipelines.plans.spec import Range, ViewDistribution, ViewSpec

__all__ = [
    "PLAN_VERSION",
    "PRESETS",
    "ViewDistribution",
    "ViewPlan",
    "ViewPlanner",
    "ViewSpec",
    "preset",
]

_GLOBAL_SCALE: Range = (0.4, 1.0)
_LOCAL_SCALE: Range = (0.05, 0.4)


def _dino_view(size: int, scale: Range, blur: float, solarize: float = 0.0) -> ViewDistribution:
    """A view in the colours of DINO (Caron et al. 2021, section 3.2, after BYOL); VICReg's are the same."""
    return ViewDistribution(
        size=size,
        scale=scale,
        interpolation="bicubic",
        flip=0.5,
        jitter=0.8,
        brightness=(0.6, 1.4),
        contrast=(0.6, 1.4),
        saturation=(0.8, 1.2),
        hue=(-36.0, 36.0),
        grayscale=0.2,
        blur=blur,
        solarize=solarize,
    )


def _dino_views(num_local: int) -> tuple[ViewDistribution, ...]:
    """Two global views, the second blurred seldom and solarized at times, and the local ones."""
    first = _dino_view(224, _GLOBAL_SCALE, blur=1.0)
    second = _dino_view(224, _GLOBAL_SCALE, blur=0.1, solarize=0.2)
    return (first, second, *(_dino_view(96, _LOCAL_SCALE, blur=0.5),) * num_local)


_SIMCLR_VIEW = ViewDistribution(  # Chen et al. 2020, appendix A, colour strength 1
    size=224,
    scale=(0.08, 1.0),
    interpolation="bilinear",
    flip=0.5,
    jitter=0.8,
    brightness=(0.2, 1.8),
    contrast=(0.2, 1.8),
    saturation=(0.2, 1.8),
    hue=(-72.0, 72.0),
    grayscale=0.2,
    blur=0.5,
)

_IMSVD_VIEWS = (  # VICReg's (Bardes et al. 2022, appendix C.1)
    _dino_view(224, (0.08, 1.0), blur=1.0),
    _dino_view(224, (0.08, 1.0), blur=0.1, solarize=0.2),
)

# What classifiers are commonly trained on: crop and flip, the pixels as they are.
_SUPERVISED_VIEW = ViewDistribution(size=224, scale=(0.08, 1.0), interpolation="bilinear", flip=0.5)

PRESETS: dict[str, ViewSpec] = {
    spec.name: spec
    for spec in (
        ViewSpec("hydes", _dino_views(num_local=6)),
        ViewSpec("imsvd", _IMSVD_VIEWS),
        ViewSpec("dino", _dino_views(num_local=8)),
        ViewSpec("dino_global", _dino_views(num_local=0)),
        ViewSpec("simclr", (_SIMCLR_VIEW, _SIMCLR_VIEW)),
        ViewSpec("supervised", (_SUPERVISED_VIEW,)),
        ViewSpec("eval", (ViewDistribution(size=224, resize_to=256, interpolation="bilinear"),)),
    )
}


def preset(name: str) -> ViewSpec:
    """The spec called NAME, or NAME@S: global views of S pixels, local ones of S/2, blur in proportion.

    Raises:
        ValueError: no such preset, with the nearest name, or a size that is not a whole number >= 2.
    """
    base, at, size = name.partition("@")
    if base not in PRESETS:
        nearest = difflib.get_close_matches(base, PRESETS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown view preset '{base}', did you mean '{nearest}'? Known: {', '.join(PRESETS)}"
        )
    if not at:
        return PRESETS[base]
    if not (size.isascii() and size.isdigit()):
        raise ValueError(f"view preset '{name}': the size after @ must be a whole number, got '{size}'")
    return PRESETS[base].at_size(int(size))
