"""`bench gpu`: loaders beside data that is there already, for one training step on one GPU."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from viewmill.engine.backbones import build_backbone
from viewmill.engine.method_config import HydesConfig
from viewmill.engine.model import Student, build_method
from viewmill.pipelines.executors.feeding import fed_executor
from viewmill.pipelines.executors.reference import ReferenceExecutor
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.loader import Loader
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.views import preset
from viewmill.shards.manifest import Dataset
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import GPU
from viewmill.tools.bench.spread import medians, spread

EXECUTORS = ("dali", "host", "resident")
# What DESIGN asks for: of the speed on synthetic data, and of the time spent waiting for data.
FORM = ViewFormat("bfloat16", channels_last=True)
HYDES_VALUES = {"kappa": 1.0, "alpha": 1.0, "beta": 1.0}
_PARITY_SAMPLES = 32
_AHEAD = 2  # steps that the host may be ahead of the device, as a loop that reads its losses late


def run(
    data: Path,
    *,
    device: str = "cuda",
    view_preset: str = "hydes",
    backbone: str = "resnet50",
    batch_size: int = 128,
    steps: int = 50,
    repeats: int = 3,
    threads: int = 8,
    executors: Sequence[str] = EXECUTORS,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compares executors with the reference, times them alone, and times a training that they feed.

    The training is HyDeS on a bfloat16, channels_last backbone. Its ceiling is the same loop over views that
    lie on the device. Rounds of all executors and of the ceiling take turns.

    Args:
        data: a data set of at least `batch_size` samples; "resident" needs room for its pictures.
        device: "cuda", or "cpu" to see that the measuring works.
        view_preset: the views.
        backbone: timm's name.
        batch_size: images of a step.
        steps: of a round, after a fifth as many that do not count.
        repeats: rounds; the figures are medians over them.
        threads: of each executor.
        executors: which ones.
        progress: told what is measured.

    Returns:
        JSON-able: settings, parity (of 255), loader and training (images/s, seconds of waiting as a share),
        ceiling, fingerprint.

    Raises:
        ValueError: no GPU, a number below 1, or too few samples.
        ImportError: an executor's library is not installed.
    """
    if min(batch_size, steps, repeats, threads) < 1:
        raise ValueError(
            f"batch size {batch_size}, steps {steps}, repeats {repeats}, threads {threads}: all >= 1"
        )
    where = _device(device)
    spec, tell = preset(view_preset), progress or (lambda _: None)
    with Dataset.open(data) as dataset:
        if dataset.num_samples < batch_size:
            raise ValueError(f"{data}: {dataset.num_samples} samples, a batch of {batch_size} needs more")
        tell("parity with the reference")
        found = {name: parity(name, dataset, spec, device, threads) for name in executors}
        bench = _Bench(dataset, spec, where, device, batch_size, steps, threads)
        step = TrainingStep(spec, backbone, where)
        rows: dict[str, list[dict[str, float]]] = {}
        for number in range(repeats):
            tell(f"round {number + 1} of {repeats}: data that is there already")
            rows.setdefault("ceiling", []).append(bench.ceiling(step))
            for name in executors:
                tell(f"round {number + 1} of {repeats}: {name}")
                alone, trained = bench.loader(name), bench.training(name, step)
                rows.setdefault(f"loader {name}", []).append(alone)
                ceiling = rows["ceiling"][-1]["images_per_s"]
                rows.setdefault(f"training {name}", []).append(
                    trained | {"of_synthetic": trained["images_per_s"] / ceiling}
                )
    return {
        "bench": "gpu",
        "settings": {
            "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
            "preset": view_preset, "backbone": backbone, "batch_size": batch_size, "steps": steps,
            "threads": threads, "views": FORM.dtype,
        },
        "repeats": repeats,
        "parity": found,
        "figures": {name: medians(figures) for name, figures in rows.items()},
        "fingerprint": fingerprint(),
    }  # fmt: skip


def parity(name: str, dataset: Dataset, spec: ViewSpec, device: str, threads: int) -> dict[str, float]:
    """Largest mean over a view and largest pixel of the difference from the reference, of 255."""
    ids = np.arange(min(_PARITY_SAMPLES, dataset.num_samples))
    plan = ViewPlanner(spec, seed=0).draw(0, ids, dataset.sizes(ids))
    executor, fetch = fed_executor(
        name, dataset, spec, max_batch=len(ids), num_threads=threads,
        device="cpu" if name == "host" else device,
    )  # fmt: skip
    with closing(executor):
        ours = executor.run(fetch(ids), plan)
    with closing(ReferenceExecutor(spec, max_batch=len(ids), num_threads=threads)) as reference:
        theirs = reference.run(dataset.read(ids), plan)
    scale = 255 * torch.tensor(spec.std)[:, None, None]
    differences = [((a.cpu() - b) * scale).abs() for a, b in zip(ours, theirs, strict=True)]
    return {
        "mean": max(float(difference.mean()) for difference in differences),
        "largest": max(float(difference.max()) for difference in differences),
    }


class TrainingStep:
    """Forward, backward and update of HyDeS on bfloat16 weights; SGD, for the data is what is measured."""

    def __init__(self, spec: ViewSpec, backbone: str, device: torch.device) -> None:
        torch.manual_seed(0)
        network = build_backbone(backbone, image_size=spec.sizes[0])
        method = build_method(HydesConfig(), cast(int, network.num_features))
        self.student = Student(network, method, channels_last=True).to(device, torch.bfloat16)
        self._optimizer = torch.optim.SGD(self.student.parameters(), lr=1e-3, momentum=0.9)

    def __call__(self, views: list[Tensor]) -> Tensor:
        """The loss, on the device; nothing is waited for."""
        loss = self.student.method.loss(self.student(views).float(), HYDES_VALUES).loss
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss.detach()


class _Bench:
    """What the rounds have in common."""

    def __init__(
        self,
        dataset: Dataset,
        spec: ViewSpec,
        where: torch.device,
        device: str,
        batch_size: int,
        steps: int,
        threads: int,
    ) -> None:
        self.dataset, self.spec, self.where, self.device = dataset, spec, where, device
        self.batch_size, self.steps, self.threads = batch_size, steps, threads
        self.warm_up = max(1, steps // 5)

    def ceiling(self, step: TrainingStep) -> dict[str, float]:
        """Training on random views that lie on the device."""
        views = [
            torch.randn(self.batch_size, 3, size, size, device=self.where)
            .to(FORM.torch_dtype)
            .contiguous(memory_format=FORM.memory_format)
            for size in self.spec.sizes
        ]
        self._seconds((views for _ in range(self.warm_up)), step)
        return self._figures(self._seconds((views for _ in range(self.steps)), step))

    def loader(self, name: str) -> dict[str, float]:
        """A loader whose views nobody uses."""
        return self._fed(name, lambda views: views[0])

    def training(self, name: str, step: TrainingStep) -> dict[str, float]:
        """Training on a loader's views."""
        return self._fed(name, step)

    def _fed(self, name: str, step: Callable[[list[Tensor]], Tensor]) -> dict[str, float]:
        with Loader(
            self.dataset, self.spec, self.batch_size, executor=name, device=self.device,
            num_threads=self.threads, view_format=FORM,
        ) as loader:  # fmt: skip
            views = (batch.views for batch in _without_end(loader))
            self._seconds(islice(views, self.warm_up), step)
            waited_s = loader.wait_s
            seconds = self._seconds(islice(views, self.steps), step)
            return self._figures(seconds) | {"wait_fraction": (loader.wait_s - waited_s) / seconds}

    def _seconds(self, batches: Iterable[list[Tensor]], step: Callable[[list[Tensor]], Tensor]) -> float:
        """Of one step a batch; the host stays at most `_AHEAD` steps ahead of the device."""
        _synchronize(self.where)
        under_way: deque[torch.cuda.Event] = deque()
        began_s = time.perf_counter()
        for views in batches:
            step(views)
            if self.where.type == "cuda":
                under_way.append(torch.cuda.Event())
                under_way[-1].record()
                if len(under_way) > _AHEAD:
                    under_way.popleft().synchronize()
        _synchronize(self.where)
        return time.perf_counter() - began_s

    def _figures(self, seconds: float) -> dict[str, float]:
        return {
            "images_per_s": self.steps * self.batch_size / seconds,
            "step_ms": 1e3 * seconds / self.steps,
        }


def _without_end(loader: Loader) -> Iterator[Any]:
    while True:
        yield from loader


def _device(device: str) -> torch.device:
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(
            f"device '{device}': this machine has no GPU that torch can use, so there is nothing to measure; "
            "run it where `nvidia-smi` shows one"
        )
    return torch.device(device)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    settings, figures = result["settings"], result["figures"]
    shown = Table(
        title=f"{settings['device']}: {settings['backbone']}, {settings['preset']}, batch "
        f"{settings['batch_size']}, medians of {result['repeats']} rounds (range)"
    )
    for heading in ("data", "images/s alone", "images/s in training", "of synthetic", "waiting", "parity"):
        shown.add_column(heading, justify="left" if heading == "data" else "right")
    shown.add_row("on the device already", "", spread(figures["ceiling"], "images_per_s", 0), "", "", "")
    for name, distance in result["parity"].items():
        trained = figures[f"training {name}"]
        shown.add_row(
            name,
            spread(figures[f"loader {name}"], "images_per_s", 0),
            spread(trained, "images_per_s", 0),
            f"{trained['of_synthetic']:.1%} (>= {GPU['of_synthetic']:.0%})",
            f"{trained['wait_fraction']:.2%} (< {GPU['wait_fraction']:.0%})",
            f"{distance['mean']:.2f} of 255",
        )
    return shown
