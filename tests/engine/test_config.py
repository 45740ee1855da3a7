"""Recipes and overrides: what is read, and what is refused in one line."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from viewmill.engine.config import ConfigError, RunConfig, load_config, save_config
from viewmill.engine.recipe_file import shipped_recipes


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_that_comes_along_loads_by_its_bare_name(name: str) -> None:
    assert load_config(name).epochs >= 1


def test_overrides_come_last_and_the_last_one_wins() -> None:
    config = load_config("hydes_tiny", ["optimizer.lr=0.5", "zero.stage=2", "optimizer.lr=2.5e-4"])
    assert (config.optimizer.lr, config.zero.stage) == (2.5e-4, 2)


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "1E-3", "0.001"])
def test_an_exponent_is_a_number_with_or_without_a_point(tmp_path: Path, text: str) -> None:
    recipe = written(tmp_path, f"epochs: 1\nbatch_size: 8\noptimizer: {{lr: {text}}}\n")
    assert load_config(recipe).optimizer.lr == 1e-3
    assert load_config("hydes_tiny", [f"optimizer.lr={text}"]).optimizer.lr == 1e-3


def test_a_saved_config_reads_back_equal_with_every_default_written_out(tmp_path: Path) -> None:
    config = load_config("hydes_tiny", ["max_steps=7", "optimizer.betas=[0.8, 0.95]", "optimizer.eps=1e-7"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert "nonfinite_limit: 5" in (tmp_path / "config.yaml").read_text()


def test_a_config_cannot_be_changed_after_construction() -> None:
    config = load_config("hydes_tiny")
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", "optimizer.lrr is no setting; the nearest is optimizer.lr"),
        ("lr=1", "lr is no setting; the nearest is optimizer.lr"),
        ("kapa=1", "kapa is no setting; the nearest is method.kappa"),
        ("optimiser.lr=1", "optimiser is no setting; the nearest is optimizer"),
        ("epochs=0", "epochs: input should be greater than or equal to 1, got 0"),
        ("optimizer.lr=fast", "optimizer.lr: input should be a valid number, got 'fast'"),
        ("seed=true", "seed: input should be a valid integer, got True"),
        ("zero.stage=4", "zero.stage: input should be less than or equal to 3, got 4"),
        (
            "loss_precision=model",
            "loss_precision=model changes nothing: precision=fp32 gives float32",
        ),
        ("precision=fp8", "precision: input should be 'fp32', 'bf16' or 'fp16', got 'fp8'"),
        ("method.kappa=.nan", "method.kappa: input should be a finite number, got nan"),
        (
            "schedule={constant: true, final_lr_fraction: 0.1}",
            "final_lr_fraction and constant are two ends of one schedule",
        ),
        ("epochs", "override 'epochs': expected key=value"),
        ("seed.x=1", "override 'seed.x=1': seed is a value, not a group of settings"),
        ("model=[", "override 'model=[': not valid YAML"),
    ],
)
def test_a_wrong_override_is_named_in_one_line(tmp_path: Path, override: str, message: str) -> None:
    recipe = written(tmp_path, "epochs: 1\nbatch_size: 8\nseed: 0\n")
    with pytest.raises(ConfigError) as caught:
        load_config(recipe, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 1\n", "batch_size is missing; add it to the recipe or pass batch_size=VALUE"),
        ("epochs: 1\nepochs: 2\nbatch_size: 8\n", "key 'epochs' is given twice"),
        ("- epochs\n", "holds no settings"),
        ("", "holds no settings"),
        ("epochs: !!python/name:os.system\n", "not valid YAML"),
        ("epochs: \x00\n", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    recipe = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(recipe)
    assert str(recipe) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"hydes_tinny: no such recipe; .* hydes_tiny"):
        load_config("hydes_tinny")


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_config(tmp_path / "recipe.yaml")


def test_several_mistakes_are_listed_together() -> None:
    with pytest.raises(ConfigError, match=r"epochs.*batch_size"):
        load_config("hydes_tiny", ["epochs=0", "batch_size=0"])


def test_a_config_needs_no_recipe() -> None:
    assert RunConfig(epochs=1, batch_size=8).method.projector.dim == 256
