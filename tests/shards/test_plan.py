"""The plan: what is an input, its class, its shard, its place in the order."""

import os
from pathlib import Path
from typing import Any

import pytest
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.plan import Plan, make_plan
from viewmill.shards.errors import ConvertError
from viewmill.shards.sources.open import SourceOptions

from tests.shards.pictures import encoded, picture

JPEG = encoded(picture(), "JPEG")


def write(folder: Path, *names: str, data: bytes = JPEG) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def plan_of(
    source: Path, *, seed: int | None = None, shard_bytes: int | None = None, class_level: int | None = None
) -> Plan:
    options = Options(seed, "decode", shard_bytes)
    return make_plan(source, options, SourceOptions(class_level=class_level))


def labels_of(plan: Plan) -> dict[str, int]:
    return {image.source: image.label for shard in plan.shards for image in shard}


def test_the_class_is_the_folder_that_holds_the_image(tmp_path: Path) -> None:
    plan = plan_of(write(tmp_path, "b/x.jpg", "a/deep/y.jpg", "a/z.jpg", "root.jpg"))
    assert plan.classes == ("a", "a/deep", "b")
    assert labels_of(plan) == {"b/x.jpg": 2, "a/deep/y.jpg": 1, "a/z.jpg": 0, "root.jpg": -1}


def test_a_class_level_takes_the_folder_at_that_depth(tmp_path: Path) -> None:
    write(tmp_path, "train/cat/1/x.jpg", "val/cat/2/y.jpg", "val/dog/z.jpg", "val/w.jpg")
    plan = plan_of(tmp_path, class_level=2)
    assert plan.classes == ("cat", "dog")
    assert labels_of(plan) == {
        "train/cat/1/x.jpg": 0,
        "val/cat/2/y.jpg": 0,
        "val/dog/z.jpg": 1,
        "val/w.jpg": -1,
    }
    assert plan_of(tmp_path, class_level=0).classes == ()


def test_a_folder_without_images_is_no_class(tmp_path: Path) -> None:
    write(tmp_path, "b/x.jpg")
    write(tmp_path, "a_documents/notes.txt", "a_documents/list.csv", data=b"text")
    plan = plan_of(tmp_path)
    assert plan.classes == ("b",)
    assert plan.num_inputs == 3


def test_two_images_of_one_key_are_an_error_that_names_both(tmp_path: Path) -> None:
    write(tmp_path, "a/x.jpg", "a/x.png")
    with pytest.raises(ConvertError, match=r"'a/x\.jpg' and 'a/x\.png' have the same key 'a/x'; rename"):
        plan_of(tmp_path)


def test_an_image_and_its_notes_may_share_a_key(tmp_path: Path) -> None:
    write(tmp_path, "a/x.jpg")
    write(tmp_path, "a/x.json", "a/x.txt", data=b"{}")
    assert plan_of(tmp_path).num_inputs == 3


def test_the_seed_decides_the_order_and_none_keeps_that_of_the_paths(tmp_path: Path) -> None:
    write(tmp_path, *(f"{number:02d}.jpg" for number in range(40)))
    orders = [
        [image.source for shard in plan_of(tmp_path, seed=seed).shards for image in shard] for seed in (0, 1)
    ]
    in_paths_order = [image.source for shard in plan_of(tmp_path).shards for image in shard]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == in_paths_order == sorted(in_paths_order)


def test_shards_are_of_about_the_size_that_was_asked_for(tmp_path: Path) -> None:
    write(tmp_path, *(f"{number:02d}.jpg" for number in range(40)), data=JPEG + bytes(8_000 - len(JPEG)))
    shards = plan_of(tmp_path, shard_bytes=100_000).shards
    assert [len(shard) for shard in shards] == [8, 8, 8, 8, 8]  # 40 of 8,000 + 2,048 bytes: 5 shards at least


def test_a_folder_inside_itself_and_a_pipe_are_inputs_with_a_fault(tmp_path: Path) -> None:
    write(tmp_path, "a/x.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe.jpg")
    faults = {file.path: (file.fault or "").partition(":")[0] for file in plan_of(tmp_path).unusable}
    assert faults == {
        "a/loop": "not a regular file",
        "nowhere.jpg": "unreadable",
        "pipe.jpg": "not a regular file",
    }


def test_a_linked_image_is_an_input(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "x.jpg")
    (tmp_path / "source" / "a").mkdir(parents=True)
    (tmp_path / "source" / "a" / "y.jpg").symlink_to(tmp_path / "elsewhere" / "x.jpg")
    assert labels_of(plan_of(tmp_path / "source")) == {"a/y.jpg": 0}


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"absent: no such folder; give the folder"):
        plan_of(tmp_path / "absent")
    with pytest.raises(ConvertError, match=r"x\.jpg: not a folder"):
        plan_of(write(tmp_path, "x.jpg") / "x.jpg")


def test_a_folder_without_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(ConvertError, match=r"empty: no regular file in this folder; give the folder"):
        plan_of(tmp_path / "empty")


@pytest.mark.parametrize(
    "options",
    [
        (-1, "decode", None),
        (0, "guess", None),
        (0, "header", 0),
        (0, "header", 1, 0),
        (0, "header", 1, 1, "short=0"),
        (0, "header", 1, 1, None, 101),
    ],
)
def test_options_out_of_range_are_refused(options: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="got"):
        Options(*options)


def test_a_class_level_below_none_is_refused() -> None:
    with pytest.raises(ValueError, match="got -1"):
        SourceOptions(class_level=-1)
