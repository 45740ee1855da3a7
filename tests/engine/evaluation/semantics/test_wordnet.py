"""WordNet's similarities, against NLTK's values on the whole of WordNet and by hand on a few synsets."""

import csv
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from viewmill.engine.evaluation.semantics.class_synsets import meanings_of, read_table, synset_of
from viewmill.engine.evaluation.semantics.wordnet import WordNet, find_wordnet, usual_places
from viewmill.engine.evaluation.semantics.wordnet_similarity import similarities

from tests.engine.evaluation.semantics.small_wordnet import small_files
from tests.shards.pictures import SHARED_DATA

PACK = SHARED_DATA  # wordnet30.zip, imagenet_classes.tsv, and NLTK's values for 500 pairs
REFERENCE = PACK / "wordnet_similarity_reference.tsv"
needs_pack = pytest.mark.skipif(
    not REFERENCE.is_file(), reason="the shared data are not here, so there is no WordNet to read"
)


@pytest.fixture
def small() -> WordNet:
    return WordNet(*small_files(), where="small")


@pytest.fixture(scope="module")
def whole() -> WordNet:
    return find_wordnet(PACK / "wordnet30.zip")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@needs_pack
def test_every_pair_of_the_reference_has_nltks_values(whole: WordNet) -> None:
    rows = rows_of(REFERENCE)
    synsets = sorted({int(row[name][1:]) for row in rows for name in ("wnid_a", "wnid_b")})
    found = similarities(whole, synsets)
    at = [[synsets.index(int(row[name][1:])) for row in rows] for name in ("wnid_a", "wnid_b")]
    assert len(rows) == 500
    for name, ours in (("wup", found.wup), ("lch", found.lch), ("shortest_path", found.distance)):
        np.testing.assert_allclose(ours[at[0], at[1]], [float(row[name]) for row in rows], rtol=1e-13)


@needs_pack
def test_the_synsets_of_imagenet_have_nltks_names_words_and_depths(whole: WordNet) -> None:
    assert whole.depth == 19
    for row in rows_of(PACK / "imagenet_classes.tsv"):
        synset = int(row["wnid"][1:])
        assert (whole.name(synset), "|".join(whole.lemmas(synset))) == (row["nltk_name"], row["lemmas"])
        assert [whole.min_depth(synset), whole.max_depth(synset)] == [
            int(row["min_depth"]),
            int(row["max_depth"]),
        ]
        above = {f"n{one:08}" for one in whole.hypernyms[synset]}  # in no order of their own
        assert above == set(row["hypernyms"].split("|"))


@needs_pack
def test_every_name_of_the_table_is_a_noun_of_wordnet(whole: WordNet) -> None:
    from viewmill.engine.evaluation.semantics import class_synsets

    table = read_table((Path(class_synsets.__file__).parent / class_synsets.TABLE).read_text(), "table")
    assert len(meanings_of(list(table), whole).synsets) == len(table) == 112
    cifar10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    found = meanings_of(cifar10, whole)
    assert [f"n{synset:08}" for synset in found.synsets[:4]] == [
        "n02691156",
        "n02958343",
        "n01503061",
        "n02121620",
    ]
    assert found.texts == cifar10


def test_similarities_of_a_few_synsets_are_those_by_hand(small: WordNet) -> None:
    names = ["whale", "dog", "boat", "otter", "mammal", "whale"]
    found = similarities(small, [small.senses(name)[0] for name in names])
    # dog - mammal - whale; the longest way from mammal to the root has 4 nodes.
    assert (found.distance[0, 1], found.wup[0, 1]) == (2, 8 / 10)
    # whale - swimmer - animal - entity - artifact - boat: five edges; the root has one node.
    assert (found.distance[0, 2], found.wup[0, 2]) == (5, 2 / (5 + 2))
    # mammal is as low as any: the shortest way from swimmer to the root is shorter.
    assert (found.distance[0, 3], found.wup[0, 3]) == (2, 8 / 10)
    # A class that lies above another is the lowest itself.
    assert (found.distance[3, 4], found.wup[3, 4]) == (1, 8 / 9)
    assert (found.distance[0, 5], found.wup[0, 5]) == (0, 1)
    # The depth of these nouns is 4: whale by mammal.
    assert small.depth == 4
    np.testing.assert_allclose(found.lch, -np.log((found.distance + 1) / 8))
    np.testing.assert_array_equal(found.wup, found.wup.T)


def test_of_equally_low_hypernyms_the_first_by_name_counts() -> None:
    synsets = {
        "top": (),
        "long": ("top",),
        "beta": ("top", "long"),  # 1 edge below the top by the shortest way, 2 by the longest
        "alpha": ("top",),
        "one": ("alpha", "beta"),
        "two": ("alpha", "beta"),
    }
    nouns = WordNet(*small_files(synsets), where="small")
    found = similarities(nouns, [nouns.senses(name)[0] for name in ("one", "two")])
    assert found.wup[0, 1] == 4 / 6  # alpha has two nodes; by beta it would be 6/8


def test_the_way_to_a_hypernym_may_lead_past_it() -> None:
    # low is reached from end by four edges, or by the short cut over top in two.
    synsets = {
        "top": (),
        "low": ("top",),
        "a": ("low",),
        "b": ("a",),
        "c": ("b",),
        "end": ("c", "top"),
        "leaf": ("low",),
    }
    nouns = WordNet(*small_files(synsets), where="small")
    found = similarities(nouns, [nouns.senses(name)[0] for name in ("end", "leaf")])
    assert found.distance[0, 1] == 3
    assert found.wup[0, 1] == 4 / (2 + 1 + 4)


def test_it_is_found_in_a_zip_a_folder_and_nltks_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, index = small_files()
    corpora = tmp_path / "nltk" / "corpora"
    corpora.mkdir(parents=True)
    with zipfile.ZipFile(corpora / "wordnet.zip", "w") as archive:
        archive.writestr("wordnet/data.noun", data)
        archive.writestr("wordnet/index.noun", index)
    (tmp_path / "data.noun").write_bytes(data)
    (tmp_path / "index.noun").write_bytes(index)
    for place in (corpora / "wordnet.zip", tmp_path):
        assert find_wordnet(place).depth == 4
    monkeypatch.setenv("NLTK_DATA", f"{tmp_path / 'none'}{os.pathsep}{tmp_path / 'nltk'}")
    assert next(place for place in usual_places() if place.exists()) == corpora / "wordnet.zip"
    assert find_wordnet(None).depth == 4
    assert sorted(path.name for path in corpora.iterdir()) == ["wordnet.zip"]  # nothing is unpacked


def test_what_is_no_wordnet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither a folder nor a zip with .*--wordnet FILE\.zip"):
        find_wordnet(tmp_path / "nowhere.zip")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match=r"cut\.zip: not a whole zip"):
        find_wordnet(tmp_path / "cut.zip")
    with pytest.raises(ValueError, match=r"not of WordNet 3\.0"):
        WordNet(*small_files(version="3.1"), where="other")


def test_classes_are_named_by_ids_by_the_users_table_or_refused(small: WordNet, tmp_path: Path) -> None:
    dog = small.senses("dog")[0]
    assert meanings_of([f"val/n{dog:08}"], small).texts == ["dog"]
    (tmp_path / "names.yaml").write_text(f"my_dog: dog.n.01\nship: n{small.senses('boat')[0]:08}\n")
    found = meanings_of(["my_dog", "ship"], small, tmp_path / "names.yaml")
    assert (found.synsets[0], found.texts) == (dog, ["my dog", "ship"])
    with pytest.raises(
        ValueError, match="no WordNet synset is known for the classes sushi, ramen, pizza and 1 more"
    ):
        meanings_of(["sushi", "ramen", "pizza", "pho"], small)
    for wrong in ("dog.n.02", "dog.n.0", "cow.n.01", "n00000001", "dog"):
        with pytest.raises(ValueError, match="no such noun synset"):
            synset_of(wrong, small)
    for text in ("- dog", "dog: 3", "{"):
        with pytest.raises(ValueError, match=r"names\.yaml: "):
            read_table(text, "names.yaml")


def test_the_way_from_a_class_to_itself_is_nothing(small: WordNet) -> None:
    found = similarities(small, [small.senses(name)[0] for name in ("dog", "boat")])
    assert found.lch[0, 0] == pytest.approx(math.log(8))
