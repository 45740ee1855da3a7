"""Replay: any batch of a run again, from its folder and the data set, bit for bit."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from viewmill.engine import train as train_module
from viewmill.engine.config import ConfigError, RunConfig
from viewmill.engine.replay import replay, session_of
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import start_world, stop_world
from viewmill.pipelines.executors.executor import dali_is_installed
from viewmill.pipelines.loader import Batch, Loader
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.views import preset
from viewmill.shards.manifest import Dataset
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.engine.tiny import tiny_config, tiny_data_set
from tests.support import run_ranks

pytestmark = pytest.mark.slow
SPEC = preset("hydes@32")
RESUMED_AT, LAST = 2, 4  # of 3 steps an epoch: on two ranks up to the first, on one up to the last
BAD_AT = 14  # in the order: of the second micro-batch of rank 1 at step 2
BAD = int(SampleOrder(26, 0).ids(0, BAD_AT, BAD_AT + 1)[0])


def config(max_steps: int, accumulation: int) -> RunConfig:
    """Without BatchNorm, for the micro-batches change when the run is resumed."""
    return tiny_config(
        max_steps=max_steps,
        accumulation=accumulation,
        model={"backbone": "test_vit"},
        method={"projector": {"layers": 1, "dim": 16}},
        views={"preset": "hydes@32", "executor": "reference", "num_threads": 1},  # no other has its bits
        checkpoint={"every_steps": 1},
    )


class KeepingLoader(Loader):
    """Keeps what it hands out."""

    kept: list[Batch]

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            type(self).kept.append(batch)
            yield batch


def kept_of_training(
    max_steps: int, data: str, run: str, *, accumulation: int, resume: bool
) -> dict[int, list[Any]]:
    """Step -> [ids, labels, views] of each micro-batch that the training on this rank was given."""
    world = start_world("cpu")
    KeepingLoader.kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "Loader", KeepingLoader)
        train(config(max_steps, accumulation), data, run, resume=resume, world=world)
    stop_world(world)
    given: dict[int, list[Any]] = {}
    for batch in KeepingLoader.kept:
        micro = [torch.from_numpy(batch.ids), batch.labels, batch.views]
        given.setdefault(batch.step + 1, []).append(micro)
    return given


def on_two_ranks(rank: int, data: str, run: str) -> dict[int, list[Any]]:
    return kept_of_training(RESUMED_AT, data, run, accumulation=2, resume=False)


def flip(data: Path, sample: int) -> None:
    with Dataset.open(data) as dataset:
        row, shard = dataset.manifest[sample], data / dataset.info.shards[0].name
    content = bytearray(shard.read_bytes())
    content[int(row["offset"]) + int(row["size"]) // 2] ^= 1
    shard.write_bytes(content)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("replay"), count=26)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replayed") / "run"


@pytest.fixture(scope="module")
def trained(data: Path, run: Path) -> dict[tuple[int, int], list[Any]]:
    """(step, rank) -> what it was given; one sample was damaged then, and is whole again now."""
    flip(data, BAD)
    ranks = run_ranks(2, on_two_ranks, str(data), str(run))
    given = {(step, rank): batch for rank, kept in enumerate(ranks) for step, batch in kept.items()}
    alone = kept_of_training(LAST, str(data), str(run), accumulation=1, resume=True)
    flip(data, BAD)
    return given | {(step, 0): batch for step, batch in alone.items()}


@pytest.fixture
def dataset(data: Path, trained: object) -> Iterator[Dataset]:
    with Dataset.open(data) as opened:
        yield opened


def test_every_batch_of_every_rank_and_world_size_comes_again_bit_for_bit(
    trained: dict[tuple[int, int], list[Any]], run: Path, dataset: Dataset
) -> None:
    assert set(trained) == {(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (4, 0)}
    for (step, rank), micro_batches in trained.items():
        again = replay(run, dataset, step, rank)
        assert len(again.batches) == len(micro_batches) == (2 if step <= RESUMED_AT else 1)
        for batch, (ids, labels, views) in zip(again.batches, micro_batches, strict=True):
            assert batch.ids.tolist() == ids.tolist()
            assert torch.equal(batch.labels, labels)
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch.views, views, strict=True))
        assert (again.is_exact, again.session.world_size) == (True, 2 if step <= RESUMED_AT else 1)


def test_the_places_of_micro_batches_are_those_of_their_samples(run: Path, dataset: Dataset) -> None:
    order = SampleOrder(26, 0)
    again = replay(run, dataset, 1, 1)
    for start, batch in zip(again.first_positions, again.batches, strict=True):
        assert batch.ids.tolist() == order.ids(0, start, start + 2).tolist()
    assert again.first_positions == [2, 6]


def test_a_sample_that_was_replaced_is_replaced_again_though_it_is_whole_now(
    run: Path, dataset: Dataset
) -> None:
    dataset.read([BAD])
    again = replay(run, dataset, 2, 1)
    assert BAD not in again.batches[1].ids
    ((position, (made, *_)),) = again.substitutions.items()
    assert (position, made.id) == (BAD_AT, BAD)
    assert again.batches[1].ids[position - again.first_positions[1]] == made.substitute


@pytest.mark.skipif(not dali_is_installed(), reason="DALI is not installed")
def test_another_executor_gives_the_same_crops_of_the_same_samples_within_the_tolerance(
    trained: dict[tuple[int, int], list[Any]], run: Path, dataset: Dataset
) -> None:
    ids, _, views = trained[(2, 1)][0]
    again = replay(run, dataset, 2, 1, executor="dali")
    assert (again.is_exact, again.executor) == (False, "dali")
    assert again.batches[0].ids.tolist() == ids.tolist()
    std = torch.tensor(SPEC.std)[:, None, None]
    for ours, theirs in zip(again.batches[0].views, views, strict=True):
        difference = ((ours - theirs) * std * 255).abs().mean()
        assert 0 < difference <= 2  # of 255; the published tolerance


def test_a_sample_that_was_used_and_is_damaged_now_is_an_error_with_its_key(
    run: Path, data: Path, trained: object, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    used = int(SampleOrder(26, 0).ids(0, 0, 1)[0])
    flip(copy, used)
    with Dataset.open(copy) as dataset, pytest.raises(RuntimeError, match=dataset.keys([used])[0]):
        replay(run, dataset, 1, 0)


def test_what_the_run_never_had_is_refused(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"step 3 was trained by 1 ranks, so --rank lies in \[0, 1\), got 1"
    ):
        replay(run, dataset, 3, 1)
    with pytest.raises(ConfigError, match="its last one is 12"):
        replay(run, dataset, 13, 0)
    with pytest.raises(ConfigError, match="counted from 1"):
        replay(run, dataset, 0, 0)
    with pytest.raises(FileNotFoundError, match=r"config.yaml is missing"):
        replay(tmp_path, dataset, 1, 0)
    with Dataset.open(tiny_data_set(tmp_path, count=25)) as other, pytest.raises(ConfigError) as caught:
        replay(run, other, 1, 0)
    assert other.data_set_hash in str(caught.value)
    assert dataset.data_set_hash in str(caught.value)


def test_the_session_is_the_last_one_that_trained_the_step(
    run: Path, trained: object, tmp_path: Path
) -> None:
    start, resume = (
        line for line in read_lines(run / "events.jsonl") if line["event"] in ("start", "resume")
    )
    made = {"epoch": 0, "position": 3, "id": 1, "substitute": 2, "reason": "cut"}
    events = [
        start,
        {"event": "substitutes", "step": 0, "samples": [made]},
        {**resume, "step": 4, "world_size": 4},
        {"event": "substitutes", "step": 4, "samples": [{**made, "position": 5}]},
        {**resume, "step": 2, "world_size": 8},  # the checkpoint of step 4 was damaged
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert [session_of(tmp_path, step)[0].world_size for step in (1, 2, 3, 5, 9)] == [2, 2, 8, 8, 8]
    assert [one.position for one in session_of(tmp_path, 2)[1]] == [3]
    assert session_of(tmp_path, 5)[1] == []


@pytest.mark.parametrize("line", ['{"event": "start", "step": 0}', '{"step": 1}', "[]", "{"])
def test_events_that_do_not_tell_are_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigError, match=r"events.jsonl: a line cannot be used"):
        session_of(tmp_path, 1)


def test_the_command_writes_the_table_the_tensors_and_the_picture(
    trained: dict[tuple[int, int], list[Any]], run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run_app(app, ["replay", str(run), "--step", "2", "--rank", "1", "--data", str(data), "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    out = Path(told.pop("out"))
    assert out == run / "replay" / "step_00000002_rank_1_reference"
    assert json.loads((out / "samples.json").read_text()) == told
    assert told["micro_batches"] == 2
    assert [line["micro"] for line in told["samples"]] == [0, 0, 1, 1]
    assert [line["position"] for line in told["samples"]] == [10, 11, 14, 15]
    assert [line["replaces"] for line in told["samples"]] == [None, None, BAD, None]
    with (out / "samples.csv").open() as file:
        assert [line["key"] for line in csv.DictReader(file)] == [line["key"] for line in told["samples"]]
    tensors = load_file(out / "views.safetensors")
    for micro, (ids, labels, views) in enumerate(trained[(2, 1)]):
        lines = [line for line in told["samples"] if line["micro"] == micro]
        assert [line["id"] for line in lines] == ids.tolist()
        assert [line["label"] for line in lines] == labels.tolist()
        assert all(
            torch.equal(tensors[f"micro{micro}.view{number}"], view) for number, view in enumerate(views)
        )
    sheet = np.asarray(Image.open(out / "sheet.png"))
    mean, std = (torch.tensor(channel)[:, None, None] for channel in (SPEC.mean, SPEC.std))
    views = trained[(2, 1)][0][2]
    first = np.rint(((views[0][0] * std + mean) * 255).clamp(0, 255).permute(1, 2, 0).numpy())
    assert np.array_equal(sheet[4:36, 40:72], first)  # behind the original, 4 pixels between
