"""What can be told of DALI's graph for a GPU without one: it builds, and pixels stay on the device."""

import pytest
from viewmill.pipelines.executors.view_format import DTYPES, ViewFormat
from viewmill.pipelines.views import PRESETS

pytest.importorskip("nvidia.dali", reason="DALI is not installed")
from viewmill.pipelines.executors.dali.operator_graph import view_graph

PICTURE_OPERATORS = {"ImageSlice", "Image", "Resize", "ColorTwist", "GaussianBlur", "CropMirrorNormalize"}


def operators(preset: str, view_format: ViewFormat) -> list[tuple[str, set, set]]:
    """(operator, devices of its inputs, devices of its outputs) of the graph for a GPU."""
    pipeline = view_graph(
        PRESETS[preset],
        view_format,
        "mixed",
        batch_size=4,
        num_threads=1,
        device_id=0,
        exec_dynamic=True,
    )
    pipeline._build_graph()  # the part of build() that needs no GPU; arguments are checked in it
    specs = [(operator.name, operator.spec) for operator in pipeline._ops]
    return [
        (
            name.strip("_").rpartition("_")[0] or name,
            {spec.InputDevice(number) for number in range(spec.NumInput())},
            {spec.OutputDevice(number) for number in range(spec.NumOutput())},
        )
        for name, spec in specs
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_picture_is_on_the_gpu_from_the_decoder_on(preset: str) -> None:
    found = operators(preset, ViewFormat())
    pictures = [outputs for name, _, outputs in found if name in PICTURE_OPERATORS]
    assert len(pictures) == 1 + 4 * PRESETS[preset].num_views
    assert all(outputs == {"gpu"} for outputs in pictures)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_copied_back_from_the_gpu(dtype: str) -> None:
    for name, inputs, outputs in operators("hydes", ViewFormat(dtype, True)):
        assert "gpu" not in inputs or outputs == {"gpu"}, name
