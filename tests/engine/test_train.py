"""Training as a whole, on one rank: what a run leaves behind, how it resumes, and what it refuses."""

import json
import os
import signal
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor
from viewmill.engine import train as train_module
from viewmill.engine import trainer as trainer_module
from viewmill.engine.checkpoints import checkpoint
from viewmill.engine.checkpoints.checkpoint import newest
from viewmill.engine.config import ConfigError, RunConfig, load_config
from viewmill.engine.nonfinite import NonFiniteError
from viewmill.engine.preemption import Requeue
from viewmill.engine.telemetry import RunLog, read_lines
from viewmill.engine.train import train
from viewmill.engine.world import World
from viewmill.methods.families.hydes import HyDeS
from viewmill.pipelines.order import SampleOrder
from viewmill.shards.manifest import Dataset

from tests.engine.tiny import metrics, tiny_config, tiny_data_set

pytestmark = pytest.mark.slow
STEPS_PER_EPOCH = 3  # 26 pictures, batches of 8: two are dropped at the end


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory, data: Path, world: World) -> Path:
    """An uninterrupted run of 4 epochs of 3 steps, with warm-up and cosine."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train(long_config(log={"every_steps": 1}), data, run_dir, world=world)
    return run_dir


def long_config(**changes: Any) -> RunConfig:
    settings = {
        "schedule": {"warmup_epochs": 1.0, "final_lr_fraction": 0.01},
        "checkpoint": {"every_steps": 2},
    }
    return tiny_config(**(settings | changes))


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_lines(run_dir / "events.jsonl") if event["event"] == kind]


def weights(run_dir: Path) -> dict[str, Tensor]:
    return load_file(run_dir / "export" / "backbone.safetensors")


def assert_same_run(run_dir: Path, other: Path) -> None:
    assert metrics(run_dir) == metrics(other)
    ours, theirs = weights(run_dir), weights(other)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_leaves_the_files_of_a_run_folder(whole_run: Path) -> None:
    expected = {"config.yaml", "environment.json", "metrics.jsonl", "ranks.jsonl", "events.jsonl"}
    expected |= {"heartbeats", "stragglers.json"}
    assert {path.name for path in whole_run.iterdir()} == expected | {"tensorboard", "checkpoints", "export"}
    assert [line["step"] for line in read_lines(whole_run / "ranks.jsonl")] == list(range(1, 13))
    assert load_config(whole_run / "config.yaml") == long_config(log={"every_steps": 1})
    assert list((whole_run / "tensorboard").iterdir())


def test_the_environment_names_versions_but_no_host_and_no_path(whole_run: Path, data: Path) -> None:
    text = (whole_run / "environment.json").read_text()
    described = json.loads(text)
    assert described["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert (described["world_size"], described["torch_threads"]) == (1, 1)
    assert os.uname().nodename not in text
    assert str(data) not in text


def test_every_step_has_a_line_with_every_figure(whole_run: Path) -> None:
    lines = read_lines(whole_run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["epoch"] for line in lines] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    figures = "step epoch samples time_s loss h_global h_local mutual_information lr grad_norm "
    figures += "mean_cosine effective_rank images_per_s data_wait_fraction step_s "
    figures += "step_p50_s step_p95_s rank_wait_fraction memory_peak_mib"
    assert all(set(line) == set(figures.split()) for line in lines)
    assert all(isinstance(value, (int, float)) for line in lines for value in line.values())
    assert lines[-1]["samples"] == 96


def test_the_learning_rate_warms_up_and_falls(whole_run: Path) -> None:
    rates = [line["lr"] for line in metrics(whole_run)]
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 1e-4


def test_the_loss_falls(data: Path, tmp_path: Path, world: World) -> None:
    config = tiny_config(epochs=16, optimizer={"lr": 3e-3}, checkpoint={"every_epochs": None})
    train(config, data, tmp_path / "run", world=world)
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_the_export_is_timms_backbone(whole_run: Path) -> None:
    backbone = timm.create_model("test_resnet", num_classes=0)
    backbone.load_state_dict(weights(whole_run), strict=True)
    about = json.loads((whole_run / "export" / "config.json").read_text())
    assert (about["backbone"], about["image_size"], about["step"]) == ("test_resnet", 32, 12)
    assert int(weights(whole_run)["bn1.num_batches_tracked"]) == 24  # two resolutions, twelve steps


def test_a_second_run_is_the_same_bit_for_bit(
    whole_run: Path, data: Path, tmp_path: Path, world: World
) -> None:
    train(long_config(log={"every_steps": 1, "tensorboard": False}), data, tmp_path / "run", world=world)
    assert_same_run(tmp_path / "run", whole_run)


@pytest.mark.parametrize("stop", [4, 6])  # within an epoch, and at its end
def test_a_resumed_run_equals_the_uninterrupted_one(
    whole_run: Path, data: Path, tmp_path: Path, world: World, stop: int
) -> None:
    run_dir = tmp_path / "run"
    train(long_config(max_steps=stop), data, run_dir, world=world)
    assert len(metrics(run_dir)) == stop
    train(long_config(), data, run_dir, resume=True, world=world)
    assert_same_run(run_dir, whole_run)
    assert [event["step"] for event in events(run_dir, "resume")] == [stop]


def test_training_goes_on_while_a_checkpoint_is_written(
    data: Path, tmp_path: Path, world: World, whole_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer waits until two more steps are logged, and the run is the same all the same."""
    real_write, real_line, ahead = checkpoint.write_tensors, RunLog.metrics, Event()

    def slow(path: Path, tensors: Any) -> Any:
        assert ".step_00000006" not in str(path) or ahead.wait(timeout=120)
        return real_write(path, tensors)

    def noted(self: RunLog, line: dict[str, Any]) -> None:
        real_line(self, line)
        if line["step"] == 8:
            ahead.set()

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    monkeypatch.setattr(RunLog, "metrics", noted)
    policy = {"every_epochs": 2}
    train(long_config(log={"every_steps": 1}, checkpoint=policy), data, tmp_path / "run", world=world)
    assert [event["step"] for event in events(tmp_path / "run", "checkpoint")] == [6, 12]
    assert metrics(tmp_path / "run") == metrics(whole_run)
    assert all(map(torch.equal, weights(tmp_path / "run").values(), weights(whole_run).values()))


def test_a_run_that_ends_for_bad_numbers_keeps_the_checkpoint_on_its_way(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.write_tensors

    def slow(path: Path, tensors: Any) -> Any:
        time.sleep(1)
        return real(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    monkeypatch.setattr(HyDeS, "loss", nan_at({3, 4}))
    with pytest.raises(NonFiniteError):
        train(long_config(nonfinite_limit=2), data, tmp_path / "run", world=world)
    assert newest(tmp_path / "run" / "checkpoints")[0].name == "step_00000003"


def test_a_damaged_checkpoint_is_passed_over_and_its_steps_trained_again(
    whole_run: Path, data: Path, tmp_path: Path, world: World
) -> None:
    run_dir = tmp_path / "run"
    train(long_config(max_steps=6), data, run_dir, world=world)
    newest = max((run_dir / "checkpoints").iterdir(), key=lambda path: path.name if path.is_dir() else "")
    largest = max(newest.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    flip_a_byte(largest)
    train(long_config(), data, run_dir, resume=True, world=world)
    assert events(run_dir, "resume")[0]["step"] == 4
    assert newest.name in events(run_dir, "checkpoint_passed_over")[0]["reason"]
    assert_same_run(run_dir, whole_run)


def flip_a_byte(path: Path, at: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def test_a_resumed_run_may_change_its_zero_stage(
    whole_run: Path, data: Path, tmp_path: Path, world: World
) -> None:
    train(long_config(max_steps=6), data, tmp_path / "run", world=world)
    train(long_config(zero={"stage": 2}), data, tmp_path / "run", resume=True, world=world)
    ours, theirs = metrics(tmp_path / "run"), metrics(whole_run)
    losses = [line["loss"] for line in theirs]
    assert [line["loss"] for line in ours] == pytest.approx(losses, rel=1e-4)
    assert events(tmp_path / "run", "resume")[0]["was"] == {"world_size": 1, "zero_stage": 0}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_saves_and_the_resumed_run_equals_the_uninterrupted_one(
    whole_run: Path, data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run_dir, before = tmp_path / "run", signal.getsignal(signal.Signals[name])
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "train_step", signal_at(5, signal.Signals[name]))
        with pytest.raises(Requeue, match=f"{name} after step 6: saved; continue .* --resume"):
            train(long_config(checkpoint={"every_epochs": None}), data, run_dir, world=world)
    assert signal.getsignal(signal.Signals[name]) is before
    note = json.loads((run_dir / "requeue.json").read_text())
    assert (note["signal"], note["step"]) == (name, 6)
    train(long_config(), data, run_dir, resume=True, world=world)
    assert not (run_dir / "requeue.json").exists()
    assert_same_run(run_dir, whole_run)


def signal_at(step: int, number: signal.Signals) -> Any:
    """train_step that is hit by a signal in its `step`-th call."""
    calls, real = [], trainer_module.train_step

    def hit(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == step:
            os.kill(os.getpid(), number)
        return real(*arguments, **options)

    return hit


def nan_at(steps: set[int]) -> Any:
    """HyDeS.loss that is NaN in these calls, counted from 1, without any gradient being so."""
    calls, real = [], HyDeS.loss

    def spoiled(self: HyDeS, z: Tensor, *args: Any) -> Any:
        calls.append(None)
        result = real(self, z, *args)
        # Added, not multiplied: the gradient stays finite, only the loss is not.
        return result._replace(loss=result.loss + float("nan")) if len(calls) in steps else result

    return spoiled


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_step_that_is_not_finite_is_skipped_without_a_trace(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    run_dir, config = tmp_path / "run", tiny_config(max_steps=1, zero={"stage": stage})
    train(config, data, run_dir, world=world)
    before = weights(run_dir)
    monkeypatch.setattr(HyDeS, "loss", nan_at({1}))
    train(tiny_config(max_steps=2, zero={"stage": stage}), data, run_dir, resume=True, world=world)
    after = weights(run_dir)
    assert all(torch.equal(before[name], after[name]) for name in before)
    (event,) = events(run_dir, "skipped_step")
    assert event["step"] == 2
    assert len(event["ids"]) == 8
    assert metrics(run_dir)[1]["loss"] is None
    assert events(run_dir, "end")[1]["skipped"] == 1


def test_too_many_skipped_steps_in_a_row_end_the_run_and_name_the_samples(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HyDeS, "loss", nan_at({2, 4, 5, 6}))
    with pytest.raises(NonFiniteError, match=r"step 6: .* 3 steps in a row") as caught:
        train(tiny_config(nonfinite_limit=3), data, tmp_path / "run", world=world)
    skipped = events(tmp_path / "run", "skipped_step")
    assert [event["step"] for event in skipped] == [2, 4, 5, 6]
    assert str(skipped[-1]["ids"]) in str(caught.value)


def test_bf16_embeddings_reach_the_loss_where_they_are_asked_for(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = HyDeS.loss, []

    def recorded(self: HyDeS, z: torch.Tensor, *others: Any) -> Any:
        seen.append(z.dtype)
        return real(self, z, *others)

    monkeypatch.setattr(HyDeS, "loss", recorded)
    losses = {}
    for choice in ("float32", "model"):
        chosen = tiny_config(precision="bf16", loss_precision=choice, max_steps=1)
        train(chosen, data, tmp_path / choice, world=world)
        losses[choice] = read_lines(tmp_path / choice / "metrics.jsonl")[0]["loss"]
    assert seen == [torch.float32, torch.bfloat16]
    # methods/README.md: unit vectors rounded to bfloat16, as Triton has them, move a loss by less than this.
    assert losses["model"] == pytest.approx(losses["float32"], abs=2e-3)


def test_bf16_trains_and_exports_float32_masters(data: Path, tmp_path: Path, world: World) -> None:
    train(tiny_config(precision="bf16", epochs=1, zero={"stage": 1}), data, tmp_path / "run", world=world)
    exported = [value for value in weights(tmp_path / "run").values() if value.is_floating_point()]
    assert {value.dtype for value in exported} == {torch.float32}
    assert any(not torch.equal(value, value.bfloat16().float()) for value in exported)
    assert all(isinstance(line["loss"], float) for line in metrics(tmp_path / "run"))


def test_channels_last_trains_the_same_curve(
    whole_run: Path, data: Path, tmp_path: Path, world: World
) -> None:
    model = {"backbone": "test_resnet", "channels_last": True}
    train(long_config(model=model, max_steps=3), data, tmp_path / "run", world=world)
    losses = [line["loss"] for line in metrics(whole_run)[:3]]
    assert [line["loss"] for line in metrics(tmp_path / "run")] == pytest.approx(losses, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 27},
            "batch_size=27 is larger than the data set's 26 samples; set batch_size to at most 26",
        ),
        (
            {"accumulation": 3},
            "batch_size=8 is not a multiple of 1 ranks x accumulation 3; set batch_size=6 or 9",
        ),
        ({"model": {"backbone": "resnet81"}}, "'resnet81' is no timm model; the nearest is 'resnet18'"),
        ({"views": {"preset": "hydess"}}, "hydes"),
        ({"model": {"backbone": "vit_tiny_patch16_224"}, "views": {"preset": "hydes@48"}}, "multiples of 16"),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_written(
    data: Path, tmp_path: Path, world: World, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        train(tiny_config(**changes), data, tmp_path / "run", world=world)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_world_size_that_does_not_divide_the_batch_is_refused_before_any_collective(
    data: Path, tmp_path: Path
) -> None:
    alone = World(0, 3, 0, torch.device("cpu"))  # two ranks that do not exist: a collective would fail
    with pytest.raises(
        ConfigError, match=r"batch_size=8 is not a multiple of 3 ranks.* set batch_size=6 or 9"
    ):
        train(tiny_config(), data, tmp_path / "run", world=alone)


def test_a_used_folder_is_refused_without_resume(whole_run: Path, data: Path, world: World) -> None:
    before = (whole_run / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="is not empty; pass --resume"):
        train(long_config(), data, whole_run, world=world)
    assert (whole_run / "metrics.jsonl").read_bytes() == before


def test_a_folder_without_a_run_cannot_be_resumed(data: Path, tmp_path: Path, world: World) -> None:
    with pytest.raises(ConfigError, match="holds no run to resume"):
        train(tiny_config(), data, tmp_path / "run", resume=True, world=world)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"lr": 2e-3}}, "optimizer.lr was 0.001, now 0.002"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"epochs": 3}, "epochs was 4, now 3"),
        ({"max_steps": 5}, "max_steps was None, now 5"),
    ],
)
def test_a_resumed_run_is_the_same_run(
    whole_run: Path, data: Path, world: World, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(long_config(**changes), data, whole_run, resume=True, world=world)


def test_another_data_set_is_refused_on_resume(data: Path, tmp_path: Path, world: World) -> None:
    train(tiny_config(max_steps=1), data, tmp_path / "run", world=world)
    other = tiny_data_set(tmp_path, count=25)
    with pytest.raises(ValueError, match="data"):
        train(tiny_config(), other, tmp_path / "run", resume=True, world=world)


def test_a_batch_that_cannot_be_read_ends_the_run_with_its_reason(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train_module.Dataset.read

    def broken(self: Any, ids: Any) -> list[bytes]:
        if len(read_lines(tmp_path / "run" / "metrics.jsonl")) >= 1:
            raise OSError("disk is gone")
        return real(self, ids)

    monkeypatch.setattr(train_module.Dataset, "read", broken)
    with pytest.raises(OSError, match="disk is gone"):
        train(tiny_config(epochs=50), data, tmp_path / "run", world=world)


def test_a_damaged_sample_is_replaced_noted_and_in_the_epochs_ledger(tmp_path: Path, world: World) -> None:
    data = tiny_data_set(tmp_path, count=26)
    with Dataset.open(data) as dataset:
        row, shard = dataset.manifest[3], data / dataset.info.shards[0].name
    flip_a_byte(shard, int(row["offset"]) + int(row["size"]) // 2)
    train(tiny_config(epochs=2), data, tmp_path / "run", world=world)
    (first, *_) = [one for event in events(tmp_path / "run", "substitutes") for one in event["samples"]]
    assert first["id"] == 3
    assert first["substitute"] != 3
    for epoch in events(tmp_path / "run", "epoch"):
        assert epoch["trained"] + epoch["substituted"] + epoch["dropped"] == epoch["samples"] == 26
        assert epoch["dropped"] == 2
    used = [3 in used_ids(epoch) for epoch in (0, 1)]
    assert [epoch["substituted"] for epoch in events(tmp_path / "run", "epoch")] == used


def used_ids(epoch: int) -> list[int]:
    """Samples of the epoch's full batches, from the order alone."""
    return SampleOrder(26, 0).ids(epoch, 0, 24).tolist()
