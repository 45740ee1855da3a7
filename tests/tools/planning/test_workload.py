"""What a recipe costs is counted without computing: known networks, and counts of real forwards."""

import pytest
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import load_config
from viewmill.tools.bench.memory import MIB
from viewmill.tools.bench.memory_rank import Job, count
from viewmill.tools.planning.workload import FLOAT32, count_workload


@pytest.mark.parametrize(
    ("backbone", "gflop"),
    [
        ("resnet50", 8.18),
        ("resnet18", 3.63),
    ],  # 4.09 and 1.81 G multiply-adds at 224 pixels, without classifier
)
def test_known_networks_have_their_known_flops(backbone: str, gflop: float) -> None:
    overrides = [f"model.backbone={backbone}", "views.preset=supervised", "method.num_classes=1000"]
    work = count_workload(load_config("supervised_imagenet", overrides))
    assert work.conv_flops / 1e9 == pytest.approx(gflop, rel=0.01)
    assert work.matmul_flops == 2 * (work.head_weights - 1000)  # a linear classifier, without its biases


def test_views_of_several_sizes_add_up() -> None:
    small, large, both = (
        count_workload(load_config("hydes_cifar10", ["views.preset=" + preset]))
        for preset in ("dino_global@32", "dino_global@64", "hydes@64")
    )
    # 2 x 64 and 6 x 32; convolutions grow with the area.
    assert both.conv_flops == pytest.approx(large.conv_flops + 3 * small.conv_flops, rel=1e-6)
    assert large.conv_flops == pytest.approx(4 * small.conv_flops, rel=1e-6)


def test_activations_and_weights_are_those_of_a_forward_that_is_computed() -> None:
    config = load_config("hydes_tiny", ["model.backbone=test_vit", "views.preset=dino_global@160"])
    sizes = tuple(resolve_views(config).sizes)
    job = Job(config.model_copy(update={"batch_size": 2}).model_dump(mode="json"), sizes, 1)
    counted, work = count(job), count_workload(config)
    assert work.activation_bytes * 2 / MIB == pytest.approx(counted.activations, rel=0.01)
    assert work.weights * FLOAT32 / MIB == pytest.approx(counted.weights)
    assert work.head_weights * FLOAT32 / MIB == pytest.approx(counted.head)


def test_a_teacher_goes_forward_with_the_large_views_alone() -> None:
    work = count_workload(load_config("distill_prior", ["views.preset=dino@96"]))
    assert 0 < work.teacher_conv_flops < work.conv_flops
    assert work.step_flops == pytest.approx(
        3 * (work.conv_flops + work.matmul_flops) + work.teacher_conv_flops + work.teacher_matmul_flops
    )
    assert len(work.teacher_batchnorm_channels) > 0
