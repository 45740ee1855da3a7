"""Traces of chosen steps by torch's profiler, one file a rank: RUN/profile/rank-N.json.gz."""

import contextlib
from pathlib import Path
from types import TracebackType

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from viewmill.engine.agreement import describe, gather_json
from viewmill.engine.config import ConfigError
from viewmill.engine.telemetry import RunLog
from viewmill.engine.world import World


class StepTraces:
    """Watches the steps first .. last of a run and writes what each rank did in them as a Chrome trace.

    Nothing is watched or written outside of these steps. A session that begins or ends among them
    has those that it trained; a later session's file takes the place of an earlier one's. Every rank calls
    `begin` before a step, its waiting for data included, and `end` after it.

    Args:
        steps: first and last step, counted from 1 as in metrics.jsonl; None: none.
        folder: of the traces.
        log: is told of the traces, or of what kept a rank from writing its own, which stops no training.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path, world: World, log: RunLog) -> None:
        self._steps = range(0) if steps is None else range(steps[0], steps[1] + 1)
        self._folder, self._world, self._log = folder, world, log
        self._profiler: profile | None = None
        self._span: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        self._first = 0  # the step that this session's trace begins with

    def begin(self, step: int) -> None:
        """Before step `step`."""
        if step not in self._steps:
            return
        if self._profiler is None:
            self._first = step
            on_gpu = [ProfilerActivity.CUDA] if self._world.device.type == "cuda" else []
            self._profiler = profile(activities=[ProfilerActivity.CPU, *on_gpu], record_shapes=True)
            self._profiler.start()
        self._span = record_function(f"step {step}")
        self._span.__enter__()

    def end(self, step: int, *, is_last: bool) -> None:
        """After step `step`; `is_last`: the session ends with it."""
        if self._profiler is None:
            return
        self._span.__exit__(None, None, None)
        if step != self._steps[-1] and not is_last:
            return
        if self._world.device.type == "cuda":
            torch.cuda.synchronize(self._world.device)  # kernels of these steps that have not run yet
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        error: OSError | RuntimeError | None = None
        try:
            self._write(profiler)
        except (OSError, RuntimeError) as caught:  # a full disk, as Python or as torch reports it
            error = caught
        failures = [failure for failure in gather_json(self._world, describe(error)) if failure]
        self._log.event("profile", step, steps=[self._first, step], failures=failures)

    def _write(self, profiler: profile) -> None:
        self._folder.mkdir(exist_ok=True)
        aside = self._folder / f"rank-{self._world.rank}.tmp.json.gz"
        profiler.export_chrome_trace(str(aside))  # packed, as its name asks for
        aside.replace(self._folder / f"rank-{self._world.rank}.json.gz")

    def __enter__(self) -> "StepTraces":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profiler is not None:  # an error ended the run among these steps; it is what is told
            self._span.__exit__(kind, error, trace)
            self._profiler.stop()


def check_traced_steps(steps: tuple[int, int] | None, last_step: int) -> None:
    """Raises ConfigError where a run ends before the first step that is asked for."""
    if steps is not None and steps[0] > last_step:
        raise ConfigError(
            f"profile.steps={list(steps)} begins after the run's last step, {last_step}; "
            "choose steps that are trained"
        )
