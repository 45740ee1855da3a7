"""The settings of the methods and optimisers: which one is meant, and what does not go together."""

from pathlib import Path
from typing import Any

import pytest
from viewmill.engine.config import ConfigError, RunConfig, config_from, load_config, save_config
from viewmill.engine.method_config import DistillConfig, HydesConfig, ImsvdConfig
from viewmill.engine.optimizer_config import SGDConfig
from viewmill.engine.run_folder import refuse_other_run


def config(**groups: Any) -> RunConfig:
    return config_from({"epochs": 2, "batch_size": 8, **groups}, where="test")


def test_a_recipe_without_a_name_means_hydes_with_adamw() -> None:
    chosen = config(method={"kappa": 10.0}, optimizer={"lr": 0.5})
    assert chosen.method == HydesConfig(kappa=10.0)
    assert chosen.optimizer.name == "adamw"


def test_the_name_chooses_the_settings() -> None:
    assert isinstance(config(method={"name": "imsvd", "units": 16}).method, ImsvdConfig)
    assert isinstance(config(method={"name": "distill"}).method, DistillConfig)
    assert config(optimizer={"name": "sgd", "lr": 0.1}).optimizer == SGDConfig(name="sgd", lr=0.1)


def test_a_word_is_short_for_a_group_of_one_kind() -> None:
    short = config(method={"name": "distill", "scope": "ema", "teacher": "copy"})
    long = config(method={"name": "distill", "scope": {"kind": "ema"}, "teacher": {"kind": "copy"}})
    assert short == long
    em = {"kind": "em", "every_epochs": 1}
    assert config(method={"name": "distill", "refresh": "em"}) == config(
        method={"name": "distill", "refresh": em}
    )
    assert config(method={"name": "distill", "refresh": "none"}) == config(method={"name": "distill"})


@pytest.mark.parametrize(
    "method",
    [
        {
            "name": "imsvd",
            "terms": ["diagonal", "offdiagonal"],
            "weight": {"kind": "linear", "start": 0, "end": 1},
        },
        {"name": "distill", "scope": "streaming", "teacher": "copy"},
        {"name": "distill", "normalization": "sinkhorn"},
        {"name": "distill", "refresh": {"kind": "kmeans", "every_epochs": 5}},
    ],
)
def test_a_saved_config_of_every_method_reads_back_equal(tmp_path: Path, method: dict[str, Any]) -> None:
    chosen = config(method=method)
    save_config(chosen, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == chosen
    refuse_other_run(chosen.model_dump(mode="json"), chosen, where="checkpoint")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"method": {"name": "imsvdd"}}, "method: name must be one of hydes, imsvd, distill, supervised"),
        ({"method": "imsvd"}, "method: name must be one of hydes, imsvd, distill, supervised, got 'imsvd'"),
        ({"method": {"name": "supervised"}}, "method.num_classes is missing"),
        ({"method": {"name": "imsvd", "kappa": 8}}, "method.kappa is no setting of imsvd; the nearest is"),
        ({"method": {"name": "imsvd", "unts": 8}}, "method.unts is no setting; the nearest is method.units"),
        ({"method": {"name": "distill", "clusers": 8}}, "the nearest is method.clusters"),
        ({"method": {"name": "imsvd", "terms": []}}, "method.terms: tuple should have at least 1 item"),
        ({"method": {"name": "imsvd", "terms": ["diagonal", "diagonal"]}}, "names a term twice"),
        (
            {"method": {"name": "distill", "scope": "epoch"}},
            "method.scope: kind must be one of batch, ema, streaming, dataset",
        ),
        (
            {"method": {"name": "distill", "normalization": "sinkhorn", "scope": "ema"}},
            "normalization=sinkhorn keeps no prior and no centre, so scope must be batch, not ema",
        ),
        (
            {"method": {"name": "distill", "scope": "ema", "prior_iterations": 3}},
            "prior_iterations=3 iterates on the batch",
        ),
        (
            {"method": {"name": "distill", "scope": {"kind": "batch", "momentum": 0.9}}},
            "method.scope.momentum is no setting of batch",
        ),
        (
            {"method": {"name": "distill", "refresh": "kmean"}},
            "method.refresh.kind: input should be",
        ),
        (
            {"method": {"name": "distill", "refresh": "em", "normalization": "batchnorm"}},
            "normalization=batchnorm changes the teacher's; leave one of the two out",
        ),
        (
            {"method": {"name": "distill", "refresh": "em", "feature_norm": "none"}},
            "refresh=em needs features of one length",
        ),
        (
            {"method": {"name": "distill"}, "precision": "bf16", "loss_precision": "model"},
            "loss_precision=model changes nothing: the head of method.name=distill gives float32",
        ),
        (
            {"optimizer": {"name": "sgd", "lr": 0.1, "betas": [0.9, 0.9]}},
            "optimizer.betas is no setting of sgd",
        ),
        ({"optimizer": {"name": "sgd"}}, "optimizer.lr is missing"),
        (
            {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0, "nesterov": True}},
            "nesterov needs momentum",
        ),
        ({"optimizer": {"name": "lion"}}, "optimizer: name must be one of adamw, sgd"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(groups: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**groups)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_of_another_method_is_refused_with_both_names() -> None:
    saved = config().model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"method\.name was 'hydes', now 'imsvd'"):
        refuse_other_run(saved, config(method={"name": "imsvd"}), where="checkpoint")
