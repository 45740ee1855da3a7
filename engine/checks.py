"""What is refused before a run starts: the same on every rank, ahead of any collective."""

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from viewmill.engine.batch_size import check_batch_size
from viewmill.engine.config import ConfigError, RunConfig
from viewmill.engine.method_config import SupervisedConfig
from viewmill.methods.families.registry import METHODS
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.views import ViewSpec, preset
from viewmill.shards.manifest import Dataset
from viewmill.shards.survey import labels_of_all


def resolve_views(config: RunConfig) -> ViewSpec:
    """The views of the run: the recipe's preset, else the method's own.

    Raises:
        ConfigError: there is no such preset.
    """
    try:
        return preset(config.views.preset or METHODS[config.method.name].views)
    except ValueError as error:
        raise ConfigError(f"views.preset: {error}") from None


def check_batch(config: RunConfig, num_samples: int, world_size: int) -> None:
    """Raises ConfigError where batch, accumulation, ranks and data set do not fit each other."""
    batch = config.batch_size
    check_batch_size(batch, config.accumulation, world_size)
    if num_samples < batch:
        raise ConfigError(
            f"batch_size={batch} is larger than the data set's {num_samples} samples; "
            f"set batch_size to at most {num_samples}, or convert more images"
        )


def check_accumulation(before: int, config: RunConfig, student: nn.Module) -> None:
    """Raises ConfigError where a resumed run would take a BatchNorm's statistics of other batches.

    Args:
        before: micro-batches of a rank in the run that is resumed.
    """
    has_batchnorm = any(isinstance(module, _BatchNorm) for module in student.modules())
    if has_batchnorm and config.accumulation != before:
        raise ConfigError(
            f"accumulation was {before}, now {config.accumulation}: the network has a BatchNorm, whose "
            "statistics are of the micro-batches of all ranks, so this would be another run; give "
            f"accumulation={before} and another number of ranks, or begin anew with another --out"
        )


def check_labels(config: RunConfig, dataset: Dataset, order: Order) -> None:
    """Raises ConfigError where a method with labels meets a sample without, or other classes."""
    if not isinstance(config.method, SupervisedConfig):
        return
    wanted, found = config.method.num_classes, len(dataset.classes)
    if wanted != found:
        raise ConfigError(
            f"method.num_classes={wanted}, but {dataset.shown} has {found} classes; "
            f"set method.num_classes={found}, or train on another data set"
        )
    ids = np.sort(order.ids(0, 0, order.num_samples))
    without = ids[labels_of_all(dataset)[ids] < 0]
    if without.size:
        more = f" and {without.size - 1} more" if without.size > 1 else ""
        (key,) = dataset.keys(without[:1])
        raise ConfigError(
            f"method.name=supervised needs a label of every sample, but '{key}' "
            f"(id {without[0]}){more} of {dataset.shown} has none; choose those with labels by "
            "data.subset=FILE, or convert images in folders by class"
        )
