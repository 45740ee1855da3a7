"""What classes are called on pictures: WordNet's words for ImageNet's ids, else the names of folders."""

import re
from pathlib import Path

import pytest
from viewmill.tools.pictures.of_classes import words_of

from tests.engine.evaluation.semantics.small_wordnet import small_files


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    for name, data in zip(("data.noun", "index.noun"), small_files(), strict=True):
        (tmp_path / name).write_bytes(data)
    return tmp_path


def id_of(noun: str) -> str:
    found = re.search(rf"^(\d{{8}}) 03 n 01 {noun} ".encode(), small_files()[0], re.MULTILINE)
    assert found is not None
    return f"n{found[1].decode()}"


def test_imagenets_ids_are_called_by_the_words_of_their_synsets(wordnet: Path) -> None:
    assert words_of([id_of("otter"), f"train/{id_of('boat')}"], wordnet) == ["otter", "boat"]


def test_other_classes_are_called_as_their_folders(wordnet: Path) -> None:
    assert words_of(["birds/crane", id_of("otter")], wordnet) == ["crane", id_of("otter")]


def test_without_wordnet_ids_stay_and_a_path_that_has_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewmill.engine.evaluation.semantics.wordnet.usual_places", lambda: [])
    assert words_of(["n02102040"], None) == ["n02102040"]
    with pytest.raises(FileNotFoundError, match="give --wordnet"):
        words_of(["n02102040"], tmp_path / "nothing")
