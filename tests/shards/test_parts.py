"""Parts of one conversion: any order, at once, killed; merged, they are what one command writes."""

import multiprocessing
from pathlib import Path

import pytest
from viewmill.shards.conversion import run as conversion
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.parts import Part, parse_part
from viewmill.shards.conversion.plan import make_plan
from viewmill.shards.convert import convert_part, convert_with
from viewmill.shards.errors import ConvertError

from tests.shards.pictures import tree_hashes, write_tree

OPTIONS = Options(shard_bytes=8_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "in", per_class=8)


@pytest.fixture
def whole(source: Path, tmp_path: Path) -> dict[str, str]:
    convert_with(source, tmp_path / "whole", OPTIONS)
    return tree_hashes(tmp_path / "whole")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_in_any_order_make_the_same_bytes(
    source: Path, whole: dict[str, str], tmp_path: Path, order: tuple[int, ...]
) -> None:
    reports = [convert_part(source, tmp_path / "out", OPTIONS, Part(index, 3)) for index in order]
    assert reports[-1].written == reports[-1].total == sum(report.shards for report in reports)
    assert not (tmp_path / "out" / "dataset.json").exists()
    convert_with(source, tmp_path / "out", OPTIONS, merge=True)
    assert tree_hashes(tmp_path / "out") == whole


def test_parts_at_once_make_the_same_bytes(source: Path, whole: dict[str, str], tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    jobs = [
        context.Process(target=convert_part, args=(source, tmp_path / "out", OPTIONS, Part(index, 3)))
        for index in range(3)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    convert_with(source, tmp_path / "out", OPTIONS, merge=True)
    assert tree_hashes(tmp_path / "out") == whole


def test_merging_too_early_names_the_missing_shards(source: Path, tmp_path: Path) -> None:
    report = convert_part(source, tmp_path / "out", OPTIONS, Part(0, 2))
    missing = report.total - report.written
    with pytest.raises(ConvertError, match=rf"{missing} of {report.total} shards are not written \(1, 3"):
        convert_with(source, tmp_path / "out", OPTIONS, merge=True)


def test_the_plain_command_does_what_parts_left(source: Path, whole: dict[str, str], tmp_path: Path) -> None:
    convert_part(source, tmp_path / "out", OPTIONS, Part(1, 2))
    convert_with(source, tmp_path / "out", OPTIONS)
    assert tree_hashes(tmp_path / "out") == whole


def test_a_part_that_is_run_again_writes_nothing_twice(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_part(source, tmp_path / "out", OPTIONS, Part(0, 2))
    numbers: list[int] = []
    monkeypatch.setattr(
        conversion, "write_shards", lambda jobs, *_: numbers.extend(job.number for job in jobs)
    )
    convert_part(source, tmp_path / "out", OPTIONS, Part(0, 2))
    assert numbers == []


def test_a_part_of_other_options_is_refused(source: Path, tmp_path: Path) -> None:
    convert_part(source, tmp_path / "out", OPTIONS, Part(0, 2))
    with pytest.raises(ConvertError, match=r"another plan \(shuffle_seed was 0, is 1"):
        convert_part(source, tmp_path / "out", Options(shuffle_seed=1, shard_bytes=8_000), Part(1, 2))


def test_a_part_never_runs_twice_at_once_nor_beside_the_merge(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viewmill.shards.conversion import workspace

    monkeypatch.setattr(workspace, "_PATIENCE_S", 0.1)
    plan = make_plan(source, OPTIONS)
    with workspace.workspace_of(tmp_path / "out", plan, Part(0, 2)):
        with pytest.raises(ConvertError, match="part 0/2 is running already"):
            convert_part(source, tmp_path / "out", OPTIONS, Part(0, 2))
        with pytest.raises(ConvertError, match="another conversion is writing here"):
            convert_with(source, tmp_path / "out", OPTIONS, merge=True)
        convert_part(source, tmp_path / "out", OPTIONS, Part(1, 2))
    with (
        workspace.workspace_of(tmp_path / "out", plan),
        pytest.raises(ConvertError, match="another conversion is writing here"),
    ):
        convert_part(source, tmp_path / "out", OPTIONS, Part(0, 2))


@pytest.mark.parametrize("text", ["1", "2/2", "-1/2", "a/b", "1/0", "0/1/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--part is INDEX/COUNT"):
        parse_part(text)
