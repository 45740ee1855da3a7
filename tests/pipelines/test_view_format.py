"""Views in the dtype and layout that the caller asked for, in memory that is used again when it is free."""

import pytest
import torch
from viewmill.pipelines.executors.executor import make_executor
from viewmill.pipelines.executors.view_format import DTYPES, ViewFormat, ViewMemory
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.views import preset

from tests.pipelines.photographs import photographs, plan_for


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_has_the_shape_the_dtype_and_the_layout(dtype: str, channels_last: bool) -> None:
    views = ViewMemory(ViewFormat(dtype, channels_last)).take(5, 16)
    assert views.shape == (5, 3, 16, 16)
    assert views.dtype == DTYPES[dtype]
    assert views.is_contiguous(memory_format=ViewFormat(dtype, channels_last).memory_format)


def test_memory_comes_back_when_the_last_tensor_of_it_is_gone_and_not_before() -> None:
    memory = ViewMemory(ViewFormat("bfloat16", channels_last=True))
    views = memory.take(4, 8)
    place, first_image = views.data_ptr(), views[0]
    del views
    assert memory.take(4, 8).data_ptr() != place  # a slice of it is still in use
    del first_image
    taken = [memory.take(4, 8) for _ in range(2)]
    assert place in {views.data_ptr() for views in taken}


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8, float16, bfloat16, float32, got 'int8'"):
        ViewFormat("int8")


def formatted(executor: str, spec: ViewSpec, view_format: ViewFormat) -> list[torch.Tensor]:
    images = list(photographs().values())[:4]
    plan = plan_for(spec, images, seed=3)
    runner = make_executor(executor, spec, max_batch=4, num_threads=1, view_format=view_format)
    try:
        return runner.run(images, plan)
    finally:
        runner.close()


@pytest.mark.parametrize("executor", ["reference", "host", "dali", "dali-operators"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_format_holds_the_same_pixels(executor: str, dtype: str, channels_last: bool) -> None:
    spec = preset("hydes@32")
    found = formatted(executor, spec, ViewFormat(dtype, channels_last))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    for view, expected in zip(found, formatted(executor, spec, ViewFormat()), strict=True):
        assert view.dtype == DTYPES[dtype]
        assert view.is_contiguous(memory_format=ViewFormat(dtype, channels_last).memory_format)
        if dtype == "uint8":  # rounded
            off = (view.float() - (expected * std + mean) * 255).abs().max()
            assert off <= 0.501
        else:  # half of the last bit of numbers below 4
            off = (view.float() - expected).abs().max()
            assert off <= {"float16": 2**-10, "bfloat16": 2**-7, "float32": 1e-6}[dtype]
