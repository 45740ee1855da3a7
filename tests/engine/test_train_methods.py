"""IMSVD and distillation, and SGD, in whole trainings on one rank: they learn, resume bit for bit, and forget
nothing.
"""

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from viewmill.engine import full_pass, trainer
from viewmill.engine.checkpoints import checkpoint
from viewmill.engine.checkpoints.checkpoint import CheckpointError
from viewmill.engine.config import ConfigError, RunConfig
from viewmill.engine.evaluation.backbone_source import load_source
from viewmill.engine.evaluation.features import extract
from viewmill.engine.model import build_student
from viewmill.engine.passes.run import run_pass
from viewmill.engine.refresh import replace_in_head
from viewmill.engine.replay import replay
from viewmill.engine.teacher import Teacher
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import World
from viewmill.methods.families.distillation import Distillation
from viewmill.shards.manifest import Dataset

from tests.engine.tiny import metrics, tiny_config

pytestmark = pytest.mark.slow
PROJECTOR = {"layers": 2, "hidden": 32, "dim": 16}
IMSVD = {"name": "imsvd", "variables": 4, "units": 8, "projector": {"hidden": 32}}
SUPERVISED = {"name": "supervised", "num_classes": 4}
DISTILL = {
    "name": "distill",
    "num_clusters": 24,
    "projector": PROJECTOR,
    "teacher": {"kind": "ema", "momentum": {"kind": "cosine", "start": 0.5, "end": 0.9}},
}
HYDES_VIEWS = {"preset": "hydes@32", "executor": "host", "num_threads": 1}
SGD = {"name": "sgd", "lr": 0.05, "nesterov": True}
# Each has state of its own that a resumed run needs.
RUNS: dict[str, dict[str, Any]] = {
    "imsvd with SGD": {"method": IMSVD, "optimizer": SGD},
    "labels": {"method": SUPERVISED},
    "a decaying prior, two sizes of views": {
        "method": {**DISTILL, "scope": "ema"},
        "views": HYDES_VIEWS,
    },
    "a streaming centre": {"method": {**DISTILL, "normalization": "center", "scope": "streaming"}},
    "a copied teacher, streaming batchnorm": {
        "method": {
            **DISTILL,
            "teacher": {"kind": "copy", "every_epochs": 2},
            "normalization": "batchnorm",
            "scope": "streaming",
            "clusters": "fixed",
        }
    },
    "prototypes by EM": {"method": {**DISTILL, "scope": "streaming", "refresh": "em"}, "zero": {"stage": 1}},
    "fixed prototypes by k-means": {
        "method": {**DISTILL, "clusters": "fixed", "refresh": {"kind": "kmeans", "every_epochs": 2}},
    },
    "the prior of the data set": {
        "method": {**DISTILL, "scope": {"kind": "dataset", "every_epochs": 2}},
        "data": {"max_per_class": 6},
        "zero": {"stage": 3},
    },
}


def config(**changes: Any) -> RunConfig:
    """4 epochs of 3 steps on two views."""
    return tiny_config(**({"views": {**HYDES_VIEWS, "preset": "imsvd@32"}} | changes))


@pytest.fixture(scope="module", params=RUNS)
def whole_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data: Path, world: World
) -> tuple[dict[str, Any], Path]:
    """The settings of a run and the folder of it, uninterrupted."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train(config(**RUNS[request.param]), data, run_dir, world=world)
    return RUNS[request.param], run_dir


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_lines(run_dir / "events.jsonl") if event["event"] == kind]


def held(run_dir: Path) -> dict[str, Tensor]:
    """All tensors of the newest checkpoint: weights, optimiser state, buffers, teacher."""
    path, _ = checkpoint.newest(run_dir / "checkpoints")
    opened = checkpoint.Checkpoint.open(path)
    kinds = ("weight", *opened.manifest.kinds)
    found = {f"{kind} {name}": value for kind in kinds for name, value in opened.read_full(kind).items()}
    return {**found, **opened.buffers()}


def test_a_run_resumed_within_an_epoch_and_at_its_end_equals_the_uninterrupted_one(
    whole_run: tuple[dict[str, Any], Path], data: Path, tmp_path: Path, world: World
) -> None:
    settings, whole = whole_run
    train(config(**settings, max_steps=4), data, tmp_path / "run", world=world)
    train(config(**settings, max_steps=6), data, tmp_path / "run", resume=True, world=world)
    train(config(**settings), data, tmp_path / "run", resume=True, world=world)
    assert metrics(tmp_path / "run") == metrics(whole)
    ours, theirs = held(tmp_path / "run"), held(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_the_prior_of_the_data_set_is_that_of_every_sample_once(
    data: Path, tmp_path: Path, world: World
) -> None:
    method = {**DISTILL, "scope": "dataset"}
    chosen = config(method=method, max_steps=1)
    train(chosen, data, tmp_path / "run", world=world)
    (event,) = events(tmp_path / "run", "full_pass")
    assert (event["step"], event["counted"], event["left_out"]) == (0, 26, {})
    assert not (tmp_path / "run" / "passes").exists()
    # The teacher of the first pass is the student as it was drawn.
    student = build_student(chosen.model, chosen.method, image_size=32, seed=chosen.seed).eval()
    with Dataset.open(data) as dataset:
        said = extract(student.backbone, dataset, image_size=32, world=world, executor="host").features
    with torch.no_grad():
        prior = (student.method.embed(said).double() / 0.04).softmax(dim=1).mean(dim=0)
    expected = prior.clamp(min=1 / (26 * 24))
    torch.testing.assert_close(held(tmp_path / "run")["method.statistic.mean"], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("normalization", ["center", "batchnorm"])
def test_the_moments_of_the_data_set_replace_those_of_the_batch(
    data: Path, tmp_path: Path, world: World, normalization: str
) -> None:
    method = {**DISTILL, "scope": {"kind": "dataset", "every_epochs": 3}, "normalization": normalization}
    train(config(method=method), data, tmp_path / "run", world=world)
    assert [event["step"] for event in events(tmp_path / "run", "full_pass")] == [0, 9]
    assert held(tmp_path / "run")["method.statistic.rows"] == 26
    assert all(isinstance(line["loss"], float) for line in metrics(tmp_path / "run"))


def test_a_pass_that_was_killed_goes_on_where_it_stood(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(method={**DISTILL, "scope": "dataset", "refresh": "em"}, epochs=2)
    train(chosen, data, tmp_path / "whole", world=world)
    real, calls = Distillation.pass_rows, []

    def killed(self: Distillation, *args: Any) -> Tensor:
        calls.append(None)
        if len(calls) == 4 + 3:  # the third of four batches of the second pass
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Distillation, "pass_rows", killed)
    monkeypatch.setattr(full_pass, "run_pass", partial(run_pass, save_every=1))
    with pytest.raises(KeyboardInterrupt):
        train(chosen, data, tmp_path / "run", world=world)
    train(chosen, data, tmp_path / "run", resume=True, world=world)
    assert [event["resumed_at"] for event in events(tmp_path / "run", "full_pass")] == [0, 16]
    assert len(calls) == 4 + 3 + 2
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    ours, theirs = held(tmp_path / "run"), held(tmp_path / "whole")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    ("precision", "clusters", "stage"),
    [("fp32", "learned", 0), ("fp32", "learned", 2), ("bf16", "learned", 1), ("fp32", "fixed", 0)],
)
def test_student_and_teacher_go_on_with_the_prototypes_of_one_pass(
    data: Path, tmp_path: Path, world: World, precision: str, clusters: str, stage: int
) -> None:
    # Nothing moves but by the pass: what stands after a step is what the pass has made.
    still = {"lr": 1e-30, "weight_decay": 0.0}
    changes: dict[str, Any] = {"precision": precision, "zero": {"stage": stage}, "optimizer": still}
    plain = {**DISTILL, "clusters": clusters, "teacher_temperature": 0.2}
    train(config(method=plain, max_steps=4, **changes), data, tmp_path / "plain", world=world)
    train(
        config(method={**plain, "refresh": "em"}, max_steps=4, **changes), data, tmp_path / "run", world=world
    )
    (event,) = events(tmp_path / "run", "full_pass")
    assert (event["step"], event["counted"]) == (3, 26)
    before, after = held(tmp_path / "plain"), held(tmp_path / "run")
    own = "method.head.directions" if clusters == "fixed" else "weight method.head.directions"
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {own, "teacher.head.directions"} <= moved
    new = after[own]
    torch.testing.assert_close(
        after["teacher.head.directions"], new, rtol=0, atol=1e-2 * (precision == "bf16")
    )
    torch.testing.assert_close(new.norm(dim=1), torch.ones(24))
    cosine = (new * torch.nn.functional.normalize(before[own], dim=1)).sum(dim=1).mean()
    assert event["prototype_cosine"] == pytest.approx(float(cosine), abs=1e-3)


def test_the_prototypes_of_a_pass_are_those_of_every_sample_once(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few clusters: none is empty, so all of them are means.
    method = {**DISTILL, "num_clusters": 3, "teacher_temperature": 0.2, "refresh": "em"}
    seen: list[tuple[Teacher, Tensor]] = []

    def recorded(engine: Any, teacher: Teacher, new: dict[str, Tensor]) -> None:
        seen.append((copy.deepcopy(teacher).eval(), new["directions"]))
        replace_in_head(engine, teacher, new)

    monkeypatch.setattr(trainer, "replace_in_head", recorded)
    train(config(method=method, max_steps=4), data, tmp_path / "run", world=world)
    ((teacher, found),) = seen
    with Dataset.open(data) as dataset:
        said = extract(teacher.backbone, dataset, image_size=32, world=world, executor="host").features
    with torch.no_grad():
        unit = torch.nn.functional.normalize(teacher.head.features(said).double(), dim=1)
        old = torch.nn.functional.normalize(teacher.head.directions.double(), dim=1)
    sums = (unit @ old.T / 0.2).softmax(dim=1).T @ unit
    torch.testing.assert_close(found, torch.nn.functional.normalize(sums, dim=1).float())
    assert float((old - found).abs().max()) > 0.05


def test_prototypes_made_anew_come_to_fit_spread_out_and_share_the_images(
    data: Path, tmp_path: Path, world: World
) -> None:
    method = {**DISTILL, "num_clusters": 4, "refresh": "kmeans", "scope": "dataset"}
    train(config(method=method, epochs=16, optimizer={"lr": 3e-3}), data, tmp_path / "run", world=world)
    passes = events(tmp_path / "run", "full_pass")[1:]  # the first is for the prior alone
    assert passes[-1]["prototype_fit"] > passes[0]["prototype_fit"] + 0.3
    # A network that has learned nothing gives all images nearly one direction, and so all prototypes.
    assert passes[0]["prototype_overlap"] > 0.9
    assert passes[-1]["prototype_overlap"] < 0.85
    assert passes[-1]["empty_prototypes"] == 0
    last = metrics(tmp_path / "run")[-1]
    assert last["prior_entropy"] > 1.25 > last["student_entropy"]  # of log 4 = 1.386: even, and decided


def test_imsvd_learns_with_sgd_and_logs_its_terms(data: Path, tmp_path: Path, world: World) -> None:
    train(config(method=IMSVD, optimizer=SGD, epochs=32), data, tmp_path / "run", world=world)
    lines = metrics(tmp_path / "run")
    losses = [line["loss"] for line in lines]
    assert sum(losses[-10:]) < sum(losses[:10]) - 1.5
    for line in lines:
        terms = [line[name] for name in ("invariance", "diagonal_entropy", "offdiagonal_entropy")]
        assert line["loss"] == pytest.approx(sum(terms), rel=1e-4, abs=1e-5)
    assert {"one_hot_90", "one_hot_99", "unit_usage", "sharpness"} <= lines[0].keys()


def test_distillation_learns_and_logs_its_schedules(data: Path, tmp_path: Path, world: World) -> None:
    method = {**DISTILL, "normalization": "sinkhorn"}
    train(config(method=method, epochs=12, optimizer={"lr": 3e-3}), data, tmp_path / "run", world=world)
    lines = metrics(tmp_path / "run")
    losses = [line["loss"] for line in lines]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert lines[0]["teacher_temperature"] == 0.04
    assert 0.069 < lines[-1]["teacher_temperature"] < 0.07
    assert [line["teacher_momentum"] for line in lines] == sorted(line["teacher_momentum"] for line in lines)
    assert "student_temperature" not in lines[0]  # constant


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_zero_stage_gives_the_teacher_the_same_weights(
    data: Path, tmp_path: Path, world: World, stage: int
) -> None:
    method = {**DISTILL, "scope": "ema"}
    for name, changes in (("plain", {}), ("zero", {"zero": {"stage": stage}})):
        train(config(method=method, max_steps=3, **changes), data, tmp_path / name, world=world)
    plain, zero = held(tmp_path / "plain"), held(tmp_path / "zero")
    teachers = [name for name in plain if name.startswith("teacher.")]
    assert len(teachers) > 20
    for name in teachers:
        torch.testing.assert_close(zero[name], plain[name], rtol=1e-3, atol=1e-5)


def test_a_skipped_step_leaves_teacher_and_statistics_as_they_were(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {**DISTILL, "scope": "streaming"}
    train(config(method=method, max_steps=1), data, tmp_path / "run", world=world)
    before, real = held(tmp_path / "run"), Distillation.loss

    def spoiled(self: Distillation, *args: Any) -> Any:
        result = real(self, *args)
        return result._replace(loss=result.loss + float("nan"))

    monkeypatch.setattr(Distillation, "loss", spoiled)
    train(config(method=method, max_steps=2), data, tmp_path / "run", resume=True, world=world)
    after = held(tmp_path / "run")
    assert "method.statistic.sums" in after
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_a_checkpoint_without_a_piece_of_the_methods_state_does_not_load(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.begin

    def forgetful(*args: Any, **options: Any) -> Path:
        *others, buffers = args
        kept = {name: value for name, value in buffers.items() if name != lost}
        return real(*others, kept, **options)

    method = {**DISTILL, "scope": "ema"}
    for lost in ("method.statistic.mean", "teacher.head.directions"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "begin", forgetful)
            train(config(method=method, max_steps=1), data, tmp_path / lost, world=world)
        with pytest.raises(CheckpointError, match=f"buffers missing: {lost}"):
            train(config(method=method), data, tmp_path / lost, resume=True, world=world)


def test_a_checkpoint_without_a_piece_of_the_runs_state_does_not_load(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.begin

    def forgetful(
        folder: Path, step: int, engine: Any, world: World, state: dict[str, Any], *rest: Any, **options: Any
    ) -> Path:
        return real(
            folder,
            step,
            engine,
            world,
            {key: state[key] for key in state if key != "skipped"},
            *rest,
            **options,
        )

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "begin", forgetful)
        train(config(max_steps=1), data, tmp_path / "run", world=world)
    with pytest.raises(CheckpointError, match="its state lacks skipped"):
        train(config(), data, tmp_path / "run", resume=True, world=world)


@pytest.mark.parametrize(("export", "prefix"), [("student", "backbone."), ("teacher", "teacher.backbone.")])
def test_the_chosen_backbone_is_exported_and_evaluated(
    data: Path, tmp_path: Path, world: World, export: str, prefix: str
) -> None:
    train(config(method={**DISTILL, "export": export}, max_steps=2), data, tmp_path / "run", world=world)
    kept = {name.removeprefix("weight "): value for name, value in held(tmp_path / "run").items()}
    expected = {name.removeprefix(prefix): value for name, value in kept.items() if name.startswith(prefix)}
    exported = load_file(tmp_path / "run" / "export" / "backbone.safetensors")
    evaluated = load_source(tmp_path / "run", world).backbone.state_dict()
    assert exported.keys() == expected.keys() == evaluated.keys()
    for name, value in expected.items():
        assert torch.equal(exported[name], value)
        assert torch.equal(evaluated[name], value)
    about = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert about["method"] == "distill"


def test_a_batch_of_any_method_is_replayed(whole_run: tuple[dict[str, Any], Path], data: Path) -> None:
    with Dataset.open(data) as dataset:
        (batch,) = replay(whole_run[1], dataset, 2, 0).batches
    assert len(batch.ids) == 8
    assert len(batch.views) == (8 if "views" in whole_run[0] else 2)


def test_a_lasting_collapse_becomes_an_event_with_the_likely_setting(
    data: Path, tmp_path: Path, world: World
) -> None:
    method = {**IMSVD, "temperature": 1e6}  # every q is uniform
    train(config(method=method), data, tmp_path / "run", world=world)
    (alarm,) = events(tmp_path / "run", "alarm")
    assert (alarm["name"], alarm["step"]) == ("uniform", 5)
    assert "method.temperature" in alarm["message"]


def test_another_method_is_refused_on_resume(data: Path, tmp_path: Path, world: World) -> None:
    train(config(max_steps=1), data, tmp_path / "run", world=world)
    with pytest.raises(ConfigError, match=r"method\.name was 'hydes', now 'distill'"):
        train(config(method=DISTILL), data, tmp_path / "run", resume=True, world=world)


def test_a_scheduled_kappa_is_logged_and_is_the_loss_of_its_step(
    data: Path, tmp_path: Path, world: World
) -> None:
    method = {"projector": PROJECTOR, "kappa": {"kind": "steps", "values": [1, 20], "epochs": [1]}}
    train(config(method=method, max_steps=4), data, tmp_path / "steps", world=world)
    train(config(method={**method, "kappa": 1.0}, max_steps=4), data, tmp_path / "constant", world=world)
    steps, constant = metrics(tmp_path / "steps"), metrics(tmp_path / "constant")
    assert [line["kappa"] for line in steps] == [1, 1, 1, 20]
    assert [line["loss"] for line in steps[:3]] == [line["loss"] for line in constant[:3]]
    assert steps[3]["loss"] != constant[3]["loss"]


def test_bf16_keeps_a_float32_teacher_that_follows(data: Path, tmp_path: Path, world: World) -> None:
    settings: dict[str, Any] = {"method": {**DISTILL, "scope": "ema"}, "precision": "bf16"}
    for steps in (1, 2):
        train(
            config(**settings, zero={"stage": 1}, max_steps=steps),
            data,
            tmp_path / "run",
            resume=steps > 1,
            world=world,
        )
        if steps == 1:
            before = held(tmp_path / "run")
    after = held(tmp_path / "run")
    weights = [name for name in after if name.startswith("teacher.head.") and name.endswith("weight")]
    assert weights
    for name in weights:
        assert after[name].dtype == torch.float32
        assert not torch.equal(after[name], before[name])
