"""Which samples a run trains on and in which order: the settings of `data` and `views` as an `Order`."""

from pathlib import Path

from viewmill.engine.config import ConfigError, RunConfig
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.subset import SubsetOrder, capped, checked_members, read_ids
from viewmill.shards.manifest import Dataset
from viewmill.shards.survey import labels_of_all


def order_of_run(config: RunConfig, dataset: Dataset) -> Order:
    """The order of all samples, or of those in `data.subset`, at most `data.max_per_class` of each class.

    The same on every rank: a function of the configuration, the ids in the file and the labels.

    Raises:
        ConfigError: the file is not there or holds no ids of this data set, or a sample to be counted has no
            class; names the setting.
    """
    seed, where = config.seed, {"block": config.views.block, "window": config.views.window}
    data, members = config.data, None
    try:
        if data.subset is not None:
            members = checked_members(read_ids(Path(data.subset)), dataset.num_samples)
        if data.max_per_class is not None:
            members = capped(labels_of_all(dataset), data.max_per_class, seed, members=members)
    except (ValueError, FileNotFoundError) as error:
        name = "data.max_per_class" if members is not None or data.subset is None else "data.subset"
        raise ConfigError(f"{name}: {error}") from None
    if members is None:
        return SampleOrder(dataset.num_samples, seed, **where)
    return SubsetOrder(members, dataset.num_samples, seed, **where)
