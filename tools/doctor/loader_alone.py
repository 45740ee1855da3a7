"""The loader's stages one at a time, with nobody to train, and what they would cost with other settings."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from viewmill.engine.config import RunConfig
from viewmill.engine.loading import VIEW_DTYPES
from viewmill.engine.world import World
from viewmill.pipelines.executors.executor import (
    Executor,
    device_of_executor,
    make_executor,
    resolved_name,
)
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.flow.batches import BatchMaker
from viewmill.pipelines.flow.device_copy import CudaCopy
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.positions import positions_of_micro_batch, steps_per_epoch
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.samples import Samples
from viewmill.pipelines.views import preset
from viewmill.shards.errors import ShardError
from viewmill.shards.images import decode_rgb
from viewmill.shards.manifest import Dataset
from viewmill.tools.doctor.beside import Making, TimedMaker
from viewmill.tools.doctor.costs import Cost
from viewmill.tools.doctor.feeding import Feeding
from viewmill.tools.doctor.pictures import SEVERAL, PicturedSamples, Pictures, choose
from viewmill.tools.doctor.trials import Trial

LEAST_IMAGES = 48  # of a measurement, in batches of the run's size
LEAST_S = 0.4  # of a measurement: a machine that others share changes its speed from one tenth to the next
FED_BY_IDS = ("resident", "ffcv")  # executors that are given no bytes


class LoaderAlone:
    """Times the loader's work in the calling thread, where nothing else may run; a context manager.

    What is read comes from the end of the epoch, which no step has asked for; what is decoded is of the sizes
    of the data set, see `choose`. The costs are of one optimiser step.

    Attributes:
        pictures: what is decoded and rendered.
        renders_bytes: whether the executor is given encoded images. Of others nothing is made alone.
        is_on_cpu: whether it works on the host, beside the training, and not on the training's device.

    Raises:
        ShardError, RuntimeError: no samples that can be used.
    """

    def __init__(
        self, dataset: Dataset, order: Order, config: RunConfig, spec: ViewSpec, world: World
    ) -> None:
        self._dataset, self._order, self._config = dataset, order, config
        self._spec, self._world, self._device = spec, world, str(world.device)
        self.executor = resolved_name(config.views.executor, world.device.type)
        self.renders_bytes = self.executor not in FED_BY_IDS
        self.is_on_cpu = device_of_executor(self.executor, self._device) == "cpu"
        self._format = ViewFormat(VIEW_DTYPES[config.precision], config.model.channels_last)
        self._executors: dict[tuple[str, int, str, int], Executor] = {}
        self._micro = config.batch_size // world.world_size // config.accumulation
        self._batches = -(-LEAST_IMAGES // self._micro)
        self._share = config.accumulation / self._batches  # of a measurement: a step
        self._read_steps = 0
        self.pictures = choose(dataset, order, self._micro * self._batches)

    def read(self, *, neighbours: bool = False) -> Cost:
        """One thread reads the images of a step; neighbours: those that lie beside each other."""
        for _ in range(SEVERAL):
            chosen = [self._unread(neighbours) for _ in range(self._config.accumulation)]
            try:
                return timed(partial(list, map(self._dataset.read, chosen)))
            except ShardError:  # the run would replace it; here other samples do as well
                continue
        raise RuntimeError(
            f"{self._dataset.shown}: {SEVERAL} steps hold damaged samples; run: viewmill verify"
        )

    def make(self, num_threads: int, *, executor: str | None = None, of: Pictures | None = None) -> Cost:
        """Plans, decodes and renders the views of a step, of these pictures or of the data set's."""
        return self._run(executor or self.executor, num_threads, self._spec, of or self.pictures)

    def decode(self, num_threads: int, *, of: Pictures | None = None) -> Cost:
        """Decodes the images of a step as the executor does, on as many threads, and does no more."""
        if self.executor in ("host", "reference"):
            return self._decode_in_threads(num_threads, of or self.pictures)
        # DALI decodes in its graph alone: one view of 16 pixels costs little more than that.
        return self._run(self.executor, num_threads, preset("eval@16"), of or self.pictures)

    def copy(self) -> Cost | None:
        """Brings the views of a step to the GPU; None: they are made there, or there is none."""
        if self._world.device.type != "cuda" or device_of_executor(self.executor, self._device) != "cpu":
            return None
        copy = CudaCopy(self._device, self._format)
        shapes = [(self._micro, 3, size, size) for size in self._spec.sizes]
        views = [torch.zeros(shape, dtype=self._format.torch_dtype) for shape in shapes]
        copy(views)  # allocates
        return timed(lambda: copy(views), LEAST_S).times(self._config.accumulation)

    def close(self) -> None:
        """Ends the executors."""
        for executor in self._executors.values():
            executor.close()
        self._executors.clear()

    def __enter__(self) -> "LoaderAlone":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def making(self) -> Making:
        """Makes the views of the data set's pictures until it is left: see there."""
        executor = self._executor(self.executor, self._config.views.num_threads, self._spec)
        maker = TimedMaker(self._dataset, ViewPlanner(self._spec, self._config.seed), executor)
        return Making(maker, [part.ids for part in self.pictures.parts(self._micro)], **self._ahead())

    def feeding(self, trial: Trial, small: Pictures | None = None) -> Feeding:
        """As the run's loader would be by these settings; `small`: other bytes for what it reads."""
        samples: Samples = self._dataset if small is None else PicturedSamples(self._dataset, small)
        threads, size = trial.view_threads or self._config.views.num_threads, trial.copies * self._micro
        executor = self._executor(trial.executor or self.executor, threads, self._spec, size)
        maker = BatchMaker(samples, ViewPlanner(self._spec, self._config.seed), executor, None)
        parts = (small or self.pictures).parts(size)
        ids = [part.ids for part in parts if len(part.ids) == size] or [self._repeated(size)]
        return Feeding(maker, ids, **self._ahead())

    def _repeated(self, size: int) -> np.ndarray:
        """The samples of the pictures, again and again up to so many."""
        return np.resize(self.pictures.ids, size)

    def _ahead(self) -> dict[str, int]:
        views = self._config.views
        return {"prefetch": views.prefetch, "max_ahead_bytes": views.max_ahead_bytes}

    def _run(self, name: str, num_threads: int, spec: ViewSpec, pictures: Pictures) -> Cost:
        runner, planner = self._executor(name, num_threads, spec), ViewPlanner(spec, self._config.seed)

        def work() -> None:
            for part in pictures.parts(self._micro):
                runner.run(part.images, planner.draw(0, part.ids, part.sizes))
            if self._world.device.type == "cuda":
                torch.cuda.synchronize(self._world.device)

        return timed(work, LEAST_S).times(self._share)

    def _executor(
        self, name: str, num_threads: int, spec: ViewSpec, max_batch: int | None = None
    ) -> Executor:
        """Made once; max_batch: None: a micro-batch of the run."""
        most = max_batch or self._micro
        key = (name, num_threads, spec.name, most)
        if key not in self._executors:
            made = make_executor(
                name,
                spec,
                max_batch=most,
                num_threads=num_threads,
                device=device_of_executor(name, self._device),
                view_format=self._format,
            )
            self._executors[key] = made
            first = self.pictures.parts(self._micro)[0]  # compiles, allocates, starts its threads
            made.run(first.images, ViewPlanner(spec, 0).draw(0, first.ids, first.sizes))
        return self._executors[key]

    def _decode_in_threads(self, num_threads: int, pictures: Pictures) -> Cost:
        decoders = [self._decoder() for _ in range(num_threads)]
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(lambda decode: decode(pictures.images[0]), decoders))  # starts the threads

            def work() -> None:
                # Batch after batch, as the executor: a batch ends with the last of its images.
                for part in pictures.parts(self._micro):
                    left = iter(part.images)  # next() is atomic under the GIL
                    list(pool.map(lambda decode, left=left: [decode(one) for one in left], decoders))

            return timed(work, LEAST_S).times(self._share)

    def _decoder(self) -> Callable[[bytes], np.ndarray]:
        if self.executor == "reference":
            return decode_rgb
        from viewmill.pipelines.executors.host.decoding import Decoder

        return Decoder().decode

    def _unread(self, neighbours: bool) -> np.ndarray:
        """The samples of another micro-batch of this rank, from the last step of the epoch backwards."""
        num_steps = steps_per_epoch(self._order.num_samples, self._config.batch_size)
        self._read_steps += 1
        at = positions_of_micro_batch(
            num_steps - 1 - self._read_steps % num_steps,
            self._config.accumulation - 1,
            self._world.rank,
            global_batch=self._config.batch_size,
            accumulation=self._config.accumulation,
            world_size=self._world.world_size,
        )
        ids = self._order.ids(0, at.start, at.stop)
        if not neighbours:
            return ids
        first = min(int(ids[0]), self._dataset.num_samples - len(ids))
        return np.arange(first, first + len(ids))


def timed(work: Callable[[], object], least_s: float = 0.0) -> Cost:
    """What it takes once, the mean over as many times as take `least_s` together.

    Processor time is the process's, so nothing else may run.
    """
    began_s, cpu_s, times = time.perf_counter(), time.process_time(), 0
    while not times or time.perf_counter() - began_s < least_s:
        work()
        times += 1
    return Cost((time.perf_counter() - began_s) / times, (time.process_time() - cpu_s) / times)
