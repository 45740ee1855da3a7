"""Keys: safe names for tar members, one for each source."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from viewmill.shards.keys import SAFE, key_of_source, printable


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("n01440764/ILSVRC2012_val_00000293.JPEG", "n01440764/ILSVRC2012_val_00000293"),
        ("a.b/c.d.png", "a%2Eb/c%2Ed"),
        ("no extension", "no%20extension"),
        (".hidden", "%2Ehidden"),
        ("50%.jpg", "50%25"),
        ("Käfer.jpg", "K%C3%A4fer"),
        (os.fsdecode(b"\xff.jpg"), "%FF"),
        ("../up.jpg", "%2E%2E/up"),
    ],
)
def test_the_key_is_the_path_without_extension_and_with_other_bytes_escaped(source: str, key: str) -> None:
    assert key_of_source(source) == key


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@given(PATHS)
def test_a_key_has_safe_bytes_only(path: str) -> None:
    assert set(key_of_source(path).encode()) <= SAFE | {ord("%")}


@given(PATHS, PATHS)
def test_different_paths_have_different_keys(first: str, second: str) -> None:
    same_stem = os.path.splitext(first)[0] == os.path.splitext(second)[0]  # noqa: PTH122 - the rule itself
    assert (key_of_source(first) == key_of_source(second)) == same_stem


def test_a_path_that_is_not_utf8_is_printed_with_its_bytes() -> None:
    assert printable(os.fsdecode(b"a\xffb.jpg")) == "a\\xffb.jpg"
