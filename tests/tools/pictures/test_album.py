"""Pictures as files and on pages: whole, offline, of both themes, and unmoved by what stands in the list."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewmill.tools.pictures.album import LIST_FILE, PAGE_FILE, read_album, write_album
from viewmill.tools.pictures.page import write_pictures_page
from viewmill.tools.pictures.plate import Plate
from viewmill.tools.pictures.theme import LIGHT, Theme
from viewmill.tools.report import render
from viewmill.tools.run_reader import read_run

from tests.tools.test_report import Page, write_run

EVIL = "<script>alert(1)</script>"


def plate(name: str, *, photographs: bool = False, caption: str = "what is seen") -> Plate:
    """White in the light theme, black in the dark one."""

    def draw(theme: Theme) -> Image.Image:
        return Image.new("RGB", (40, 30), "white" if theme is LIGHT else "black")

    return Plate(name, f"Title of {name}", caption, draw, photographs)


def decoded(uri: str) -> tuple[str, np.ndarray]:
    kind, _, data = uri.partition(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
        return kind, np.asarray(opened.convert("RGB"))


def test_a_picture_is_two_files_and_comes_back_with_its_words(tmp_path: Path) -> None:
    written = write_album([plate("one"), plate("two", photographs=True)], tmp_path / "pictures")
    names = ["one.png", "one.dark.png", "two.png", "two.dark.png", LIST_FILE]
    assert [path.name for path in written] == names
    first, second = read_album(tmp_path / "pictures")
    assert (first.title, first.caption) == ("Title of one", "what is seen")
    assert decoded(first.light)[0] == "data:image/png"
    assert decoded(second.light)[0] == "data:image/jpeg"
    assert decoded(first.light)[1].min() == 255
    assert decoded(first.dark)[1].max() == 0


def test_a_later_album_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    write_album([plate("one"), plate("two")], tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    write_album([plate("two")], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.txt",
        LIST_FILE,
        "two.dark.png",
        "two.png",
    ]


def test_the_page_and_the_report_hold_both_themes_and_load_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert "Pictures" not in Page(render(read_run(run), None)).text
    write_album([plate("one", caption=EVIL)], run / "pictures")
    write_pictures_page(run / "pictures", EVIL, "about", "viewmill pictures RUN", ["map: no umap"])
    for html in (render(read_run(run), None), (run / "pictures" / PAGE_FILE).read_text(encoding="utf-8")):
        page = Page(html)
        sources = [attributes for tag, attributes in page.tags if tag == "source"]
        shown = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
        assert [attributes["media"] for attributes in sources] == ["(prefers-color-scheme: dark)"]
        assert decoded(str(sources[0]["srcset"]))[1].max() == 0
        assert decoded(str(shown[0]))[1].min() == 255
        (words,) = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
        assert words == f"Title of one: {EVIL}"
        assert EVIL in page.text  # the caption once more, as text that a telephone can show
        addresses = [
            value
            for _, attributes in page.tags
            for name, value in attributes.items()
            if name in ("src", "href")
        ]
        assert all(str(address).startswith("data:") for address in addresses)
    assert "map: no umap" in page.text
    assert EVIL in page.text
    assert "script" not in [tag for tag, _ in page.tags]


@pytest.mark.parametrize(
    "entries",
    [
        [{"name": "../outside", "title": "", "caption": "", "photographs": False}],
        [{"name": "one", "title": 3, "caption": "", "photographs": False}],
        [{"name": "one", "file": "/etc/passwd"}],
        {"name": "one"},
        [[]],
        [{"name": f"n{number}", "title": "", "caption": "", "photographs": False} for number in range(65)],
    ],
    ids=["a path", "no text", "other fields", "no list", "no entry", "too many"],
)
def test_a_list_that_is_none_is_named(entries: object, tmp_path: Path) -> None:
    (tmp_path / LIST_FILE).write_text(json.dumps(entries))
    with pytest.raises(RuntimeError, match=r"pictures\.json: .*run viewmill pictures again"):
        read_album(tmp_path)


def test_a_damaged_png_is_named(tmp_path: Path) -> None:
    write_album([plate("one")], tmp_path)
    whole = (tmp_path / "one.dark.png").read_bytes()
    (tmp_path / "one.dark.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RuntimeError, match=r"one\.dark\.png: no picture"):
        read_album(tmp_path)
    (tmp_path / "one.dark.png").unlink()
    with pytest.raises(RuntimeError, match=r"one\.dark\.png: no picture"):
        read_album(tmp_path)
