"""The whole matrix: every method and network has one loss curve on all ZeRO stages, ranks and micro-batches.

`make soak PART=same_curves`. Ten steps at a constant rate of 1e-4 in float32, of HyDeS, IMSVD and
distillation, with ResNet-18 (BatchNorm throughout) and ViT-Tiny, on stages 0 to 3 of 1, 2 and 4 ranks; and
with ViT-Tiny without any BatchNorm in 1, 2 and 4 micro-batches. Printed beside them is the noise floor, the
same run with the samples of each batch in reverse order: see test_training_is_the_same_everywhere.py, which
holds a share of this in every run of the tests.
"""

from pathlib import Path

import pytest

from tests.distributed.curves import (
    METHODS,
    RESNET,
    STAGES,
    TOLERANCE,
    VIT,
    WORLD_SIZES,
    Run,
    differences,
    train_everywhere,
)
from tests.engine.tiny import tiny_data_set

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
MICRO_BATCHES = (2, 4)


def runs_of(backbone: str) -> list[Run]:
    alone = [Run(method, backbone, batch_size=32) for method in METHODS]
    found = [
        run._replace(world_size=world_size, stage=stage)
        for run in alone
        for world_size in WORLD_SIZES
        for stage in STAGES
    ]
    found += [run._replace(is_permuted=True) for run in alone]
    if backbone == VIT:
        plain = [run._replace(layers=1) for run in alone]
        found += plain
        found += [
            run._replace(world_size=world_size, stage=stage, accumulation=count)
            for run in plain
            for world_size, stage in ((1, 0), (2, 1), (2, 3))
            for count in MICRO_BATCHES
        ]
    return found


@pytest.mark.parametrize("backbone", [RESNET, VIT])
def test_every_method_stage_and_world_size_gives_one_loss_curve(backbone: str, tmp_path: Path) -> None:
    runs = runs_of(backbone)
    train_everywhere(runs, tiny_data_set(tmp_path, count=66), tmp_path)
    rows = differences(tmp_path, runs)
    apart = {run: row for run, row in rows.items() if row > TOLERANCE and not run.is_permuted}
    assert not apart
