"""What every benchmark must reach, and whether its figures do: the numbers that tables and pages print."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

STOCK = "FFCV's stock loader"
_KERNEL = {"torchvision": 6.0, "lightly DINOTransform": 3.0, STOCK: 1.0}
_DALI = {"torchvision": 2.0, "DALI's own random operators": 0.9}
LOADER = {"host": _KERNEL, "ffcv": _KERNEL, "dali": _DALI, "dali-operators": _DALI}  # times as fast
GPU = {"of_synthetic": 0.95, "wait_fraction": 0.01}
HYDES = {"speed": 4.0, "memory": 80.0}  # times as fast, as small; at HYDES_SIZE
HYDES_SIZE = {"vectors": 16384, "dim": 256}
HYDES_GPU = {"seconds": 0.060, "extra_mib": 2048.0}  # at HYDES_GPU_SIZE
HYDES_GPU_SIZE = {"vectors": 65536, "dim": 768}
IMSVD = {"speed": 1.0, "memory": 4.0}  # at IMSVD_SIZE
IMSVD_SIZE = {"rows": 2048, "dim": 8160}
IMSVD_SHARE = 1.01  # of 1/W: multiplications of a rank; columns are not always divisible
ORDER = {"first_batch_ms": 50.0, "resident_mib": 10.0}
MANIFEST = {"seconds": 0.2, "resident_mib": 100.0}
CONVERT = {"decode": 0.8, "header": 0.8}  # of the plain loop's speed
REENCODE = 1.0  # of the peer's speed, and of that of FFCV's writer
PRIOR = {"goal": 0.10, "moonshot": 0.05}  # of a training epoch
TRAIN = {"goal": 0.05, "moonshot": 0.01}  # over the bare steps
# Of a prediction, by images/s and by what they gain; of a step that its stages alone do not explain.
DOCTOR = {"images_per_s": 0.2, "gain": 0.2, "unexplained": 0.1}
# Of a prediction of a training here, by images/s, and of published hours; by either of two loaders' rates.
PLAN = {"trained": 0.15, "published": 0.25}
PLAN_LOADERS = ("pillow", "ffcv_ssl")
MEMORY = 1.1  # peak over the formula's: a plan leaves a tenth of the memory free for what it does not count
SENTINELS = 0.01  # of a step's CPU time
KNN = {
    "extra_mib": 1024.0,
    "speed": 0.8,
    "extrapolation": 0.1,
}  # beside the features; of one product's; share
METHODS_Z = 3.0  # standard errors above the untrained backbone, below which a method has not learnt
Figures = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """A figure beside its bound; `at_least`: the figure must not be below it, else not above."""

    name: str
    found: float
    bound: float
    at_least: bool

    @property
    def met(self) -> bool:
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    @property
    def asked(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:.4g}"


def goals_of(bench: str, figures: Figures, settings: Figures) -> list[Goal]:
    """What was asked of this benchmark, at the sizes for which it is asked; none for those without goals."""
    judge = JUDGES.get(bench)
    return list(judge(figures, settings)) if judge is not None else []


def _at_least(name: str, found: float, bound: float) -> Goal:
    return Goal(name, found, bound, at_least=True)


def _at_most(name: str, found: float, bound: float) -> Goal:
    return Goal(name, found, bound, at_least=False)


def _loader(figures: Figures, settings: Figures) -> Iterator[Goal]:
    for ours, ratios in figures["ratios"].items():
        executor = ours.removeprefix("viewmill ").partition(",")[0]
        for peer, bound in LOADER.get(executor, {}).items():
            if peer in ratios:
                yield _at_least(f"{executor}: times as fast as {peer}", ratios[peer]["cpu"], bound)


def _gpu(figures: Figures, settings: Figures) -> Iterator[Goal]:
    for name, row in figures["figures"].items():
        if name.startswith("training "):
            yield _at_least(f"{name}: of synthetic data's speed", row["of_synthetic"], GPU["of_synthetic"])
            yield _at_most(f"{name}: waits for data", row["wait_fraction"], GPU["wait_fraction"])


def _hydes(figures: Figures, settings: Figures) -> Iterator[Goal]:
    on_gpu = settings["device"] != "cpu"
    size = HYDES_GPU_SIZE if on_gpu else HYDES_SIZE
    if any(settings[name] != value for name, value in size.items()):
        return
    if on_gpu:
        ours = figures["peers"]["viewmill"]
        yield _at_most("seconds", ours["seconds"], HYDES_GPU["seconds"])
        yield _at_most("MiB beside inputs", ours["extra_mib"], HYDES_GPU["extra_mib"])
    elif figures["ratios"] is not None:
        yield _at_least("times as fast as the plain formula", figures["ratios"]["speed"], HYDES["speed"])
        yield _at_least("times less memory than it", figures["ratios"]["memory"], HYDES["memory"])


def _imsvd(figures: Figures, settings: Figures) -> Iterator[Goal]:
    if all(settings[name] == value for name, value in IMSVD_SIZE.items()):
        yield _at_least("times as fast as the plain version", figures["ratios"]["speed"], IMSVD["speed"])
        yield _at_least("times less memory than it", figures["ratios"]["memory"], IMSVD["memory"])
    ranks = figures["ranks"]
    for count in ranks:
        if "1" in ranks and int(count) > 1:
            share = ranks[count]["flops"] * int(count) / ranks["1"]["flops"]
            yield _at_most(f"multiplications of a rank of {count}, times {count}", share, IMSVD_SHARE)


def _order(figures: Figures, settings: Figures) -> Iterator[Goal]:
    # Subsets and weights hold a table of their ids; what is asked is of orders that need none.
    for name, row in figures["kinds"].items():
        if not name.startswith(("subset", "weights")):
            yield _at_most(f"{name}: ms to the first batch", row["first_batch_ms"], ORDER["first_batch_ms"])
            yield _at_most(f"{name}: MiB resident", row["resident_mib"], ORDER["resident_mib"])


def _manifest(figures: Figures, settings: Figures) -> Iterator[Goal]:
    yield _at_most("seconds to open and find a batch", figures["seconds"], MANIFEST["seconds"])
    yield _at_most("MiB resident", figures["resident_mib"], MANIFEST["resident_mib"])


def _convert(figures: Figures, settings: Figures) -> Iterator[Goal]:
    for check, bound in CONVERT.items():
        yield _at_least(f"--check {check}: of the loop's speed", figures["ratios"][check]["speed"], bound)
    for part in ("reencode", "betons"):
        found = figures.get(part)  # measured where it was asked for
        if found is not None:
            yield _at_least(f"{part}: of the peer's speed", found["ratio"]["speed"], REENCODE)


def _prior(figures: Figures, settings: Figures) -> Iterator[Goal]:
    for name, row in figures["ratios"].items():
        yield _at_most(f"{name}: of its CPU time", row["cpu"], PRIOR["goal"])


def _train(figures: Figures, settings: Figures) -> Iterator[Goal]:
    yield _at_most("wall time over bare steps", figures["overhead"]["wall"]["share"], TRAIN["goal"])


def _doctor(figures: Figures, settings: Figures) -> Iterator[Goal]:
    for name, row in figures["changes"].items():
        yield _at_most(f"{name}: error of images/s", row["error"], DOCTOR["images_per_s"])
        yield _at_most(f"{name}: error of the gain", row["gain_error"], DOCTOR["gain"])
    for name, row in figures["profiles"].items():
        yield _at_most(f"{name}: unexplained, of the step", abs(row["unexplained"]), DOCTOR["unexplained"])


def _plan(figures: Figures, settings: Figures) -> Iterator[Goal]:
    for row in figures["rows"]:
        if not row["fitted"]:
            name = f"views of {row['size']}, batch {row['batch_size']}, ranks: {row['ranks']}"
            yield _at_most(f"{name}: error of images/s", abs(row["error"]), PLAN["trained"])
    for row in figures["published"]:
        for loader in PLAN_LOADERS:
            name = f"{row['name']}, loader {loader}: error of published hours"
            yield _at_most(name, abs(row[loader]["error"]), PLAN["published"])


def _memory(figures: Figures, settings: Figures) -> Iterator[Goal]:
    for row in figures["rows"]:
        name = f"stage {row['stage']}, ranks: {row['world_size']}, micro-batches: {row['accumulation']}"
        peak = max(rank["step_peak"] for rank in row["ranks_mib"])
        yield _at_most(f"{name}: peak over the formula", peak / row["formula_mib"]["step_peak"], MEMORY)


def _sentinels(figures: Figures, settings: Figures) -> Iterator[Goal]:
    for name, row in figures["recipes"].items():
        yield _at_most(f"{name}: of a step's CPU time", row["share"], SENTINELS)


def _knn(figures: Figures, settings: Figures) -> Iterator[Goal]:
    whole, ratios = figures["whole"], figures["ratios"]
    yield _at_most("ImageNet-1k: MiB beside the features", whole["extra_mib"], KNN["extra_mib"])
    yield _at_least("of the speed of one product and topk", ratios["speed_of_one_product"], KNN["speed"])
    missed = abs(whole["predicted_over_measured"] - 1)
    yield _at_most("twice the queries: extrapolation off by", missed, KNN["extrapolation"])


def _methods(figures: Figures, settings: Figures) -> Iterator[Goal]:
    for name, row in figures["rows"].items():
        z = row["knn"]["z_score"]
        if z is not None:
            yield _at_least(f"{name}: standard errors above untrained", z, METHODS_Z)


def _parity(figures: Figures, settings: Figures) -> Iterator[Goal]:
    for name, bound in figures["bounds"].items():
        rows = figures["executors"][name]
        yield _at_most(f"{name}: mean difference, of 255", max(row["mean"] for row in rows.values()), bound)


def _draws(figures: Figures, settings: Figures) -> Iterator[Goal]:
    yield _at_least("least p of all tests", figures["least_p"], figures["threshold"])


JUDGES: dict[str, Callable[[Figures, Figures], Iterator[Goal]]] = {
    "loader": _loader,
    "gpu": _gpu,
    "loss hydes": _hydes,
    "loss imsvd": _imsvd,
    "order": _order,
    "manifest": _manifest,
    "convert": _convert,
    "prior": _prior,
    "train": _train,
    "doctor": _doctor,
    "plan": _plan,
    "memory": _memory,
    "sentinels": _sentinels,
    "knn": _knn,
    "methods": _methods,
    "parity": _parity,
    "draws": _draws,
}
