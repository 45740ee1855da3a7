"""Which samples a run trains on: settings become an order, and a wrong one is named."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from viewmill.engine.config import ConfigError, RunConfig
from viewmill.engine.samples import order_of_run
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders.subset import SubsetOrder
from viewmill.shards.manifest import Dataset

from tests.pipelines.photographs import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    with Dataset.open(write_dataset(tmp_path_factory.mktemp("samples"), 24)) as opened:
        yield opened


def settings(**data: object) -> RunConfig:
    tree = {"epochs": 1, "batch_size": 4, "seed": 5, "views": {"block": 2, "window": 6}, "data": data}
    return RunConfig.model_validate(tree)


def test_nothing_said_is_all_samples_in_blocks_and_windows(dataset: Dataset) -> None:
    order = order_of_run(settings(), dataset)
    assert order.describe() == SampleOrder(24, 5, block=2, window=6).describe()


def test_a_cap_takes_so_many_of_each_class(dataset: Dataset) -> None:
    order = order_of_run(settings(max_per_class=3), dataset)
    assert np.bincount(dataset.labels(order.ids(0, 0, order.num_samples))).tolist() == [3, 3, 3]


def test_a_file_of_ids_is_the_run_and_a_cap_chooses_among_them(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"{sample}\n" for sample in range(0, 24, 2)))
    order = order_of_run(settings(subset=str(path)), dataset)
    assert order.describe() == SubsetOrder(range(0, 24, 2), 24, 5, block=2, window=6).describe()
    both = order_of_run(settings(subset=str(path), max_per_class=1), dataset)
    assert both.num_samples == 3
    assert not (both.ids(0, 0, 3) % 2).any()


@pytest.mark.parametrize(
    ("text", "named"),
    [("24\n", "data.subset: id 24 of the subset is not in"), ("x\n", r"data.subset: .*line 1")],
)
def test_a_wrong_file_is_named_with_its_setting(
    dataset: Dataset, tmp_path: Path, text: str, named: str
) -> None:
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(ConfigError, match=named):
        order_of_run(settings(subset=str(tmp_path / "ids.txt")), dataset)
    with pytest.raises(ConfigError, match=r"data\.subset: .*missing"):
        order_of_run(settings(subset=str(tmp_path / "missing.txt")), dataset)
