"""Constants are found again from steps that were made of them; steps of a training are measured."""

from functools import lru_cache
from pathlib import Path

import pytest
from viewmill.engine.config import ConfigError
from viewmill.tools.bench.plan import cores, run
from viewmill.tools.planning.calibrate import Sample, fit_steps, fit_views, variant
from viewmill.tools.planning.images import Images
from viewmill.tools.planning.measured import Measured, Origin, read_measured
from viewmill.tools.planning.predict import Plan, predict
from viewmill.tools.planning.trained_steps import as_measured, measure_steps
from viewmill.tools.planning.workload import count_workload

from tests.engine.tiny import tiny_config, tiny_data_set
from tests.tools.planning.plans import RATES

IMAGES = Images(count=100, mean_bytes=1e4, mean_pixels=5e4)
TRUE = RATES.model_copy(
    update={
        "of": Origin(device="cpu", precision="fp32", backbone="test_resnet", method="hydes"),
        "shares_cores": True,
        "conv_flops_per_s": 4e10,
        "matmul_flops_per_s": 4e10,
        "image_overhead_s": 2e-3,
        "step_overhead_s": 0.3,
        "latency_s": 0.0,
    }
)


@lru_cache
def samples() -> tuple[Sample, ...]:
    found = []
    for size, batch in ((32, 4), (32, 8), (64, 4), (64, 16)):
        config = variant(tiny_config(), size, batch)
        work = count_workload(config)
        step_s = predict(Plan(config, work, IMAGES, cores(1), TRUE)).step_s
        found.append(Sample(config, work, step_s))
    return tuple(found)


def test_constants_are_found_again_from_steps_made_of_them() -> None:
    base = TRUE.model_copy(
        update={"conv_flops_per_s": 1.0, "matmul_flops_per_s": 1.0, "image_overhead_s": 0.0}
    )
    found = fit_steps(base.model_copy(update={"step_overhead_s": 0.0}), samples(), IMAGES)
    for name in ("conv_flops_per_s", "matmul_flops_per_s", "image_overhead_s", "step_overhead_s"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-3)


def test_steps_that_do_not_grow_with_their_arithmetic_are_refused() -> None:
    strange = [one._replace(step_s=10 - one.work.view_pixels / 1e4) for one in samples()]
    with pytest.raises(RuntimeError, match="measure again on a calmer machine"):
        fit_steps(TRUE, strange, IMAGES)


def test_costs_of_views_split_into_pixels_and_the_rest() -> None:
    small, large = (variant(tiny_config(), size, 8) for size in (32, 64))
    pixels = [count_workload(config).view_pixels for config in (small, large)]
    found = fit_views([(small, 1e-3 + 1e-8 * pixels[0]), (large, 1e-3 + 1e-8 * pixels[1])], IMAGES)
    assert found.view_pixel_s == pytest.approx(1e-8)
    assert found.of_image(IMAGES.mean_pixels, pixels[1]) == pytest.approx(1e-3 + 1e-8 * pixels[1])


def test_a_measured_file_comes_back_as_it_was_and_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    path.write_text(TRUE.model_dump_json())
    assert read_measured(path) == TRUE
    path.write_text(TRUE.model_dump_json().replace("conv_flops_per_s", "conv_flops"))
    with pytest.raises(ConfigError, match="conv_flops"):
        read_measured(path)
    for text, told in (
        ("{", "not JSON"),
        ("[1]", "holds a list"),
        (RATES.model_dump_json(), "of: not there"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=told):
            read_measured(path)
    with pytest.raises(FileNotFoundError, match="viewmill plan --calibrate"):
        read_measured(tmp_path / "none.json")


def test_a_measured_training_has_one_thread_and_writes_nothing_meanwhile() -> None:
    found = as_measured(tiny_config(), steps=3)
    assert (found.device, found.torch_threads, found.max_steps) == ("cpu", 1, 5)
    assert found.checkpoint.every_epochs is None
    assert found.log.every_steps > 5
    with pytest.raises(ConfigError, match="measured on the CPU"):
        as_measured(tiny_config(device="cuda"), steps=3)


def test_a_checked_setting_must_not_be_a_fitted_one() -> None:
    with pytest.raises(ValueError, match="is fitted to"):
        run("nowhere", fitted=((32, 4),), checked=((32, 4, 1),))


@pytest.mark.slow
def test_steps_of_a_training_are_measured(tmp_path: Path) -> None:
    data = tiny_data_set(tmp_path, count=8)
    (found,) = measure_steps([tiny_config()], str(data), world_size=1, steps=2)
    assert found.wall_s > 0
    assert found.cpu_s > 0


def test_measured_is_what_the_command_writes() -> None:
    assert Measured.model_validate_json(TRUE.model_dump_json()) == TRUE
