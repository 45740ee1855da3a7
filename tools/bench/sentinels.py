"""`bench sentinels`: what looking for a collapse costs beside the training step that it looks at."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.table import Table
from torch import Tensor
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import RunConfig, load_config
from viewmill.engine.method_config import DistillConfig
from viewmill.engine.model import build_student
from viewmill.engine.scheduled import value_at
from viewmill.engine.sentinels import Sentinels
from viewmill.engine.teacher import Teacher, build_teacher
from viewmill.methods.method import Method
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import SENTINELS
from viewmill.tools.bench.spread import medians, spread

RECIPES = ("hydes_cifar10", "imsvd_cifar10", "distill_prior")


def run(
    recipes: Sequence[str] = RECIPES,
    *,
    overrides: Sequence[str] = (),
    repeats: int = 3,
    looks: int = 10,
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """For each recipe a bare training step and its sentinels in turn, `repeats` times, on the CPU.

    The step is forward, loss, backward, optimiser (AdamW for all), and for distillation the teacher's part;
    views are random numbers, so nothing is read or drawn, and a step of a run costs more. The sentinels are
    what a logged step adds: diagnostics read back as numbers, the method's complaints, and the count of
    those that last. Both are measured in CPU time of the process, which other work on the machine changes
    little.

    Args:
        overrides: `key=value` for every recipe, such as a smaller batch.
        looks: sentinels of a round; their mean counts.

    Returns:
        JSON-able: per recipe CPU ms of a step and of a look, the share of a logged step, and that of the run
        at the recipe's `log.every_steps`; load of the machine, fingerprint.

    Raises:
        ValueError: a number below 1.
    """
    if min(repeats, looks, threads) < 1 or not recipes:
        raise ValueError(f"need recipes and numbers >= 1, got {list(recipes)}, {repeats}, {looks}, {threads}")
    torch.set_num_threads(threads)
    tell = progress or (lambda _: None)
    load_before = os.getloadavg()
    found: dict[str, dict[str, Any]] = {}
    for recipe in recipes:
        config = load_config(recipe, list(overrides))
        tell(f"{recipe}: first time")
        peers, rows = _Peers(config), []
        peers.step()
        peers.look(1)
        for number in range(repeats):
            tell(f"{recipe}: round {number + 1} of {repeats}")
            rows.append(_round(peers, looks, config.log.every_steps))
        about = {"batch_size": config.batch_size, "views": list(resolve_views(config).sizes)}
        about |= {"log_every_steps": config.log.every_steps}
        found[Path(recipe).stem] = about | medians(rows)
    return {
        "bench": "sentinels",
        "settings": {"overrides": list(overrides), "threads": threads, "looks": looks},
        "repeats": repeats,
        "recipes": found,
        "goal": SENTINELS,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "fingerprint": fingerprint(),
    }


def _round(peers: "_Peers", looks: int, log_every_steps: int) -> dict[str, float]:
    step_ms = cpu_ms(peers.step)
    look_ms = cpu_ms(lambda: peers.look(looks)) / looks
    share = look_ms / step_ms
    return {"step_ms": step_ms, "look_ms": look_ms, "share": share, "share_of_run": share / log_every_steps}


def cpu_ms(work: Callable[[], Any]) -> float:
    """Processor time of this process, all its threads, in milliseconds."""
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began)


class _Peers:
    """A training of one recipe on random views, a step or a look at a time."""

    def __init__(self, config: RunConfig) -> None:
        spec = resolve_views(config)
        generator = torch.Generator().manual_seed(config.seed)
        shapes = [(config.batch_size, 3, size, size) for size in spec.sizes]
        self.views = [torch.randn(shape, generator=generator) for shape in shapes]
        self.student = build_student(config.model, config.method, image_size=spec.sizes[0], seed=config.seed)
        self.teacher: Teacher | None = build_teacher(self.student, config)
        self.method: Method = self.student.method
        trained = [one for one in self.student.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        scheduled = config.method.scheduled().items()
        self.values = {name: value_at(number, 0, config.epochs) for name, number in scheduled}
        if isinstance(config.method, DistillConfig) and config.method.scope.kind == "dataset":
            self._fill()
        self.sentinels = Sentinels()
        self.last: tuple[Tensor, Tensor | None] | None = None

    def _fill(self) -> None:
        """As a pass over the data set would: an even prior; only the arithmetic of a step counts here."""
        statistic = cast(Any, self.method).statistic
        statistic.fill(torch.full_like(statistic.mean, 1 / len(statistic.mean)), 1000)

    def step(self) -> None:
        targets = None
        if self.teacher is not None:
            targets = self.method.targets(self.teacher.head, self.teacher(self.views), self.values)
        embeddings = self.student(self.views).float()
        result = self.method.loss(embeddings, self.values, targets)
        self.optimizer.zero_grad()
        result.loss.backward()
        self.optimizer.step()
        if self.teacher is not None:
            self.teacher.after_step(self.student, self.values)
        self.last = embeddings.detach(), targets

    def look(self, times: int) -> None:
        assert self.last is not None  # a step comes first
        embeddings, targets = self.last
        for _ in range(times):
            found = self.method.diagnostics(embeddings, self.values, targets)
            figures = {name: value.item() for name, value in found.items()}
            self.sentinels.judge(self.method.alarms(figures, self.values))


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    shown = Table(
        title=f"Sentinels beside a step, CPU time, {result['settings']['threads']} thread(s), medians of "
        f"{result['repeats']} rounds; goal < {SENTINELS:.0%}"
    )
    for heading in ("recipe", "batch", "step ms", "look ms", "of a logged step", "of the run"):
        shown.add_column(heading, justify="left" if heading == "recipe" else "right")
    for name, figures in result["recipes"].items():
        low, high = figures["share_range"]
        shown.add_row(
            name,
            str(figures["batch_size"]),
            spread(figures, "step_ms", 0),
            spread(figures, "look_ms", 2),
            f"{figures['share']:.3%} ({low:.3%}-{high:.3%})",
            f"{figures['share_of_run']:.4%}",
        )
    return shown
