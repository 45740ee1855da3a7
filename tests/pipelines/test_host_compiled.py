"""Where the host executor's kernel is kept, and what makes it be compiled again."""

import logging
from typing import Any

import numba
import pytest
from viewmill.pipelines.executors.host import compiled
from viewmill.pipelines.executors.host.image import render_image, scratch_for


def test_a_change_of_any_file_of_the_kernel_is_a_change_of_what_is_kept() -> None:
    for entry in (render_image, scratch_for):
        (cell,) = (
            cell
            for name, cell in zip(
                entry.py_func.__code__.co_freevars, entry.py_func.__closure__ or (), strict=True
            )
            if name == "sources"
        )
        assert cell.cell_contents == compiled.SOURCES


def test_without_a_folder_to_keep_it_in_the_kernel_is_compiled_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    njit = numba.njit

    def without_folder(*args: Any, **options: Any) -> Any:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", without_folder)
    with caplog.at_level(logging.WARNING):
        double = compiled.kept(lambda number: 2 * number)
    assert double(21) == 42
    assert "set NUMBA_CACHE_DIR" in caplog.text
