"""Save and restore: any stage and world size reads any checkpoint; the same goes on bit for bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from viewmill.engine.checkpoints import checkpoint
from viewmill.engine.checkpoints.behind import HostCopies
from viewmill.engine.checkpoints.checkpoint import Checkpoint, CheckpointError, newest, restore
from viewmill.engine.checkpoints.retention import Retention
from viewmill.engine.world import World
from viewmill.engine.zero import ZeroEngine

from tests.engine.small_training import (
    STAGES,
    begin,
    engine_of,
    equal,
    everything,
    network,
    save,
    train,
    weights_of,
)
from tests.engine.two_ranks import held, no_space, without_norms

pytestmark = pytest.mark.slow
SOURCES = [f"W={size} stage {stage}" for size in (1, 2) for stage in STAGES]


@pytest.fixture(scope="module")
def engine(world: World) -> ZeroEngine:
    """An engine that has trained; tests save it and leave it alone."""
    engine = engine_of(world, 1)
    train(engine, range(2))
    return engine


def at_step_3(folder: Path) -> Path:
    return folder / "step_00000003"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("source", SOURCES)
def test_two_ranks_restore_every_bit_of(
    checkpoints: Path, ranks: list[dict[str, Any]], source: str, stage: int
) -> None:
    saved_again = at_step_3(checkpoints / f"{source} -> W=2 stage {stage}")
    assert equal(everything(saved_again), everything(at_step_3(checkpoints / source)))
    assert Checkpoint.open(saved_again).stage == stage


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("source", SOURCES)
def test_one_rank_restores_every_bit_of(
    checkpoints: Path, ranks: list[dict[str, Any]], world: World, tmp_path: Path, source: str, stage: int
) -> None:
    engine = engine_of(world, stage)
    restore(engine, Checkpoint.open(at_step_3(checkpoints / source)))
    saved_again = everything(save(engine, tmp_path, 3))
    expected = everything(at_step_3(checkpoints / source))
    assert equal(saved_again, expected)
    weights = {name: expected[f"weight {name}"] for name, _ in engine.module.named_parameters()}
    assert equal({name: value for name, value in weights_of(engine).items() if name in weights}, weights)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_go_on_bit_for_bit(checkpoints: Path, ranks: list[dict[str, Any]], stage: int) -> None:
    never_stopped = f"W=2 stage {stage}"
    restored = f"W=2 stage {stage} -> W=2 stage {stage}"
    for rank in ranks:
        assert rank["losses"][restored] == rank["losses"][never_stopped]
    paths = [checkpoints / f"{case}, at the end" / "step_00000006" for case in (never_stopped, restored)]
    assert equal(*map(everything, paths))


@pytest.mark.parametrize("stage", STAGES)
def test_one_rank_goes_on_bit_for_bit(world: World, tmp_path: Path, stage: int) -> None:
    whole, half, rest = (engine_of(world, stage) for _ in range(3))
    losses, _ = train(whole, range(6))
    train(half, range(3))
    restore(rest, Checkpoint.open(save(half, tmp_path / "half", 3)))
    assert train(rest, range(3, 6))[0] == losses[3:]
    assert equal(held(rest), held(whole))


def test_the_loss_goes_on_the_same_on_any_stage_and_world_size(ranks: list[dict[str, Any]]) -> None:
    curves = [torch.tensor(list(rank["losses"].values())) for rank in ranks]
    means = torch.stack(curves).mean(dim=0)  # of the ranks: (cases, steps)
    for mean in means:
        # Float32 sums in another order, three steps long.
        torch.testing.assert_close(mean, means[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_keeps_its_float32_masters(world: World, tmp_path: Path, stage: int) -> None:
    whole, half, rest = (engine_of(world, stage, without_norms(), precision="bf16") for _ in range(3))
    losses, _ = train(whole, range(6))
    train(half, range(3))
    path = save(half, tmp_path, 3)
    weights = Checkpoint.open(path).read_full("weight")
    assert any(not torch.equal(value, value.bfloat16().float()) for value in weights.values())
    restore(rest, Checkpoint.open(path))
    assert train(rest, range(3, 6))[0] == losses[3:]
    assert equal(held(rest), held(whole))


def test_a_checkpoint_tells_what_it_is(engine: ZeroEngine, tmp_path: Path) -> None:
    opened = Checkpoint.open(save(engine, tmp_path, 7))
    assert (opened.step, opened.world_size, opened.stage, opened.state) == (7, 1, 1, {"position": 56})
    assert {name: value.item() for name, value in opened.read_full("step").items()} == dict.fromkeys(
        (name for name, weight in engine.module.named_parameters() if weight.requires_grad), 2.0
    )
    with pytest.raises(CheckpointError, match="holds no momentum, only"):
        opened.read_full("momentum")


def test_files_are_plain_safetensors(engine: ZeroEngine, tmp_path: Path) -> None:
    path = save(engine, tmp_path, 1)
    tensors = load_file(path / "rank_0.safetensors")
    assert tensors["weight:0:4.bias"].equal(engine.module[4].bias.detach().float())
    assert equal(load_file(path / "buffers.safetensors"), dict(engine.module.named_buffers()))


def test_the_same_training_saves_the_same_bytes(world: World, engine: ZeroEngine, tmp_path: Path) -> None:
    again = engine_of(world, 1)
    train(again, range(2))
    first, second = save(engine, tmp_path / "a", 1), save(again, tmp_path / "b", 1)
    assert sorted(path.name for path in first.iterdir()) == sorted(path.name for path in second.iterdir())
    assert all(path.read_bytes() == (second / path.name).read_bytes() for path in first.iterdir())


def test_step_zero_is_saved_like_any_other(world: World, tmp_path: Path) -> None:
    path = save(engine_of(world, 2), tmp_path, 0)
    trained = engine_of(world, 0)
    train(trained, range(2))
    restore(trained, Checkpoint.open(path))
    assert equal(held(trained), held(engine_of(world, 0)))


def test_the_newest_are_kept(engine: ZeroEngine, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(engine, tmp_path, step, retention=Retention(keep=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000003", "step_00000004"]
    assert newest(tmp_path) == (tmp_path / "step_00000004", [])
    assert (tmp_path / "latest").read_text() == "step_00000004\n"


def test_those_of_every_so_many_steps_stay_for_good(engine: ZeroEngine, tmp_path: Path) -> None:
    for step in range(1, 10):
        save(engine, tmp_path, step, retention=Retention(keep=1, every=(4, 3)))
    left = sorted(int(path.name[-8:]) for path in tmp_path.glob("step_*"))
    assert left == [3, 4, 6, 8, 9]


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_written_behind_is_what_was_there_when_it_began(
    world: World, tmp_path: Path, stage: int
) -> None:
    engine, copies = engine_of(world, stage), HostCopies()
    for step in (1, 2):  # the second out of the same memory
        train(engine, range(1))
        expected = everything(save(engine, tmp_path / "at once", step))
        begun = begin(engine, tmp_path / "behind", step, copies=copies)
        train(engine, range(1, 3))
        assert equal(everything(begun.finish()), expected)
        assert not equal(everything(save(engine, tmp_path / "later", step)), expected)


def test_a_part_that_could_not_be_written_behind_is_told_at_the_end(
    engine: ZeroEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(engine, tmp_path, 1)
    monkeypatch.setattr(checkpoint, "write_tensors", no_space)
    begun = begin(engine, tmp_path, 2, copies=HostCopies())
    with pytest.raises(CheckpointError, match="No space left on device"):
        begun.finish()
    assert begun.is_written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000001"]


def test_a_damaged_checkpoint_does_not_count_as_kept(engine: ZeroEngine, tmp_path: Path) -> None:
    for step in (1, 2):
        save(engine, tmp_path, step, retention=Retention(keep=2))
    (tmp_path / "step_00000002" / "COMMIT").unlink()
    save(engine, tmp_path, 3, retention=Retention(keep=2))
    left = sorted(path.name for path in tmp_path.glob("step_*"))
    assert left == ["step_00000001", "step_00000002", "step_00000003"]


def test_a_good_checkpoint_is_never_written_over(engine: ZeroEngine, tmp_path: Path) -> None:
    path = save(engine, tmp_path, 5)
    before = (path / "MANIFEST.json").stat()
    with pytest.raises(CheckpointError, match="step_00000005: is there and verifies"):
        save(engine, tmp_path, 5)
    assert (path / "MANIFEST.json").stat() == before


def test_a_damaged_checkpoint_makes_way_for_a_new_one(engine: ZeroEngine, tmp_path: Path) -> None:
    path = save(engine, tmp_path, 5)
    (path / "rank_0.safetensors").write_bytes(b"")
    save(engine, tmp_path, 5)
    assert newest(tmp_path) == (path, [])
    save(engine, tmp_path, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000005", "step_00000006"]


def test_a_disk_without_space_is_refused_with_the_numbers(
    engine: ZeroEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(engine, tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(CheckpointError, match=r"step 2 needs 1\.\d MB and 0\.0 MB are free"):
        save(engine, tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000001"]


def test_a_disk_that_reads_back_other_bytes_is_caught(
    engine: ZeroEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewmill.engine.checkpoints.tensor_file.os.fsync", lambda _: spoil(tmp_path))
    with pytest.raises(CheckpointError, match="check the disk"):
        save(engine, tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def spoil(folder: Path) -> None:
    """Flips the last byte of the file that was just written."""
    for path in folder.glob(".step_*/rank_0.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def test_a_state_that_is_not_json_is_refused_and_leaves_nothing(engine: ZeroEngine, tmp_path: Path) -> None:
    for state in ({"loss": float("nan")}, {"where": {1, 2}}):
        with pytest.raises(CheckpointError, match="the state to be saved is no JSON"):
            checkpoint.save(tmp_path, 1, engine, engine.world, state, {})
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_fails_alone_is_named_on_all(ranks: list[dict[str, Any]]) -> None:
    own, other = ranks[1]["failure"], ranks[0]["failure"]
    assert "No space left on device" in own["message"]
    assert other["message"].startswith("rank 1: CheckpointError: [Errno 28] No space left on device")
    assert other["names"] == ["latest", "step_00000001"]
    assert (own["after"], other["after"]) == ("step_00000002", "step_00000002")


def test_no_rank_writes_more_than_its_share(checkpoints: Path, ranks: list[dict[str, Any]]) -> None:
    for stage in STAGES:
        folder = at_step_3(checkpoints / f"W=2 stage {stage}")
        sizes = [(folder / f"rank_{rank}.safetensors").stat().st_size for rank in (0, 1)]
        assert abs(sizes[0] - sizes[1]) < 0.1 * sum(sizes)


def other_networks() -> dict[str, tuple[nn.Module, str]]:
    wider = network(width=6)
    longer = nn.Sequential(*network(), nn.Linear(7, 7))
    shorter = nn.Sequential(*list(network())[:5])
    frozen = network()
    frozen[4].bias.requires_grad_(False)
    return {
        "wider": (wider, r"parameters different: 0\.weight is \[5, 3, 3, 3\] there and \[6, 3, 3, 3\] here"),
        "longer": (longer, r"parameters missing: 6\.weight, 6\.bias"),
        "shorter": (shorter, r"parameters not in this model: 5\.weight"),
        "frozen": (frozen, r"trained parameters different: 4\.bias is True there and False here"),
        "without norms": (
            without_norms(),
            r"buffers not in this model: 1\.num_batches_tracked, 1\.running_mean",
        ),
    }


@pytest.mark.parametrize("which", ["wider", "longer", "shorter", "frozen", "without norms"])
def test_another_model_is_refused_by_name_and_left_alone(
    world: World, engine: ZeroEngine, tmp_path: Path, which: str
) -> None:
    module, message = other_networks()[which]
    other = engine_of(world, 1, module)
    before = held(other)
    with pytest.raises(CheckpointError, match=message):
        restore(other, Checkpoint.open(save(engine, tmp_path, 1)))
    assert equal(held(other), before)


def test_a_file_that_fails_while_restoring_leaves_the_engine_alone(
    world: World, engine: ZeroEngine, tmp_path: Path
) -> None:
    opened = Checkpoint.open(save(engine, tmp_path, 1))
    (opened.path / "rank_0.safetensors").unlink()
    other = engine_of(world, 1)
    before = held(other)
    with pytest.raises(CheckpointError, match=r"rank_0\.safetensors"):
        restore(other, opened)
    assert equal(held(other), before)


def test_unequal_step_counts_do_not_fit_a_stage_that_shares_one(world: World, tmp_path: Path) -> None:
    uneven = engine_of(world, 0)
    train(uneven, range(2))
    uneven.optimizer.state[uneven.module[0].weight]["step"].fill_(9)
    opened = Checkpoint.open(save(uneven, tmp_path, 2))
    restore(engine_of(world, 0), opened)
    with pytest.raises(
        CheckpointError, match=r"step is 9 for 0\.weight and 2 for 4\.weight.*resume at stage 0"
    ):
        restore(engine_of(world, 1), opened)


def test_no_pickle_is_read_or_written(engine: ZeroEngine, tmp_path: Path) -> None:
    path = save(engine, tmp_path, 1)
    assert sorted(file.name for file in path.iterdir()) == [
        "COMMIT",
        "MANIFEST.json",
        "buffers.safetensors",
        "rank_0.safetensors",
    ]
    json.loads((path / "MANIFEST.json").read_text())
