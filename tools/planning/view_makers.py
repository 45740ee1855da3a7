"""Who makes the views of a plan, the host's cores or the training's device, and what they cost there."""

from viewmill.engine.config import RunConfig
from viewmill.pipelines.executors.executor import device_of_executor, resolved_name
from viewmill.tools.planning.cluster import Gpu
from viewmill.tools.planning.images import Images
from viewmill.tools.planning.workload import Workload

SIDE = 224  # pixels, of the one view in the published pipelines
# Core seconds of an executor over those of `host`. dali and ffcv run host's kernel on a CPU: 4.42 and 4.29 of
# 4.55 ms an image; dali-operators 24.28 (tools/bench/results/loader/imagenet_sample_two_threads.json).
# reference and resident: about 30 ms, and twice host's (pipelines/README.md).
OVER_HOST = {"host": 1.0, "dali": 1.0, "ffcv": 1.0, "dali-operators": 5.3, "reference": 6.6, "resident": 2.0}


def executor_of(config: RunConfig) -> str:
    """The executor's name, never "auto"."""
    return resolved_name(config.views.executor, config.device)


def is_on_device(config: RunConfig) -> bool:
    """Whether views are made where the training computes, on a GPU, and not by the node's cores."""
    return device_of_executor(config.views.executor, config.device) != "cpu"


def over_host(config: RunConfig) -> float:
    """Core seconds of a view over those of the `host` executor, which stand for one that is not listed."""
    return OVER_HOST.get(executor_of(config), 1.0)


def images_per_device_s(config: RunConfig, work: Workload, gpu: Gpu | None) -> float | None:
    """Images whose views the device makes in a second of its own; None: not modelled.

    That of DALI's published pipeline with one view of 224 pixels, taken as if the device did nothing else in
    it, and less as views have more pixels together (assumptions: the published runs have threads of the host
    beside them, and none has colour or blur). Fewer pixels do not make decoding faster.
    """
    if gpu is None or gpu.dali_images_per_s is None or executor_of(config) == "resident":
        return None
    return gpu.dali_images_per_s / max(1.0, work.view_pixels / SIDE**2)


def not_modelled(config: RunConfig, images: Images, gpu: Gpu | None) -> list[str]:
    """Of views that are made on the device: what the prediction does not know."""
    if not is_on_device(config):
        return []
    name = executor_of(config)
    if name == "resident":
        pixels_gb = 3 * images.count * images.mean_pixels / 1e9
        return [
            f"not modelled: what views.executor=resident takes of the device, and the {pixels_gb:,.3g} GB of "
            "pixels that each rank holds there"
        ]
    if gpu is None or gpu.dali_images_per_s is None:
        return [
            f"not modelled: what views.executor={name} takes of the device: --set gpu.dali_images_per_s=..."
        ]
    return [
        f"views are made on the device by {name}: an assumption ({gpu.dali_source}); not modelled: what its "
        "decoding takes of the host's cores; measure: viewmill profile"
    ]
