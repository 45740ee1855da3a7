"""The nouns of WordNet 3.0, read from its own files in a folder or a zip, and their hypernyms.

Our own reader, not NLTK's: the ids of ImageNet are offsets into data.noun, so a line is found without any
index, and all pairs of 1,000 classes take seconds. NLTK's takes minutes for them, and is one more dependency.
Format: the manual page wndb(5WN) of WordNet 3.0.
"""

import os
import re
import sys
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

VARIABLE = "NLTK_DATA"
MAX_BYTES = 1 << 26  # of a file: data.noun has 15 MB
_DATA, _INDEX = "data.noun", "index.noun"
_VERSION = b"WordNet 3.0 "  # in the licence that every file begins with
# Pointers to a hypernym (@) and to what an instance is of (@i), both nouns.
_HYPERNYM = re.compile(rb" @i? (\d{8}) n ")


class WordNet:
    """Noun synsets by their offset in data.noun, which is the number in an ImageNet id.

    Args:
        data, index: the bytes of data.noun and index.noun.

    Raises:
        ValueError: it is not WordNet 3.0: in another version the offsets name other synsets.
    """

    def __init__(self, data: bytes, index: bytes, where: str) -> None:
        if _VERSION not in data[:2000]:
            raise ValueError(
                f"{where}: {_DATA} is not of WordNet 3.0, and ImageNet's ids are its offsets; take 3.0"
            )
        self._data, self._index, self.where = data, index, where
        self._min_depths: dict[int, int] = {}
        self._max_depths: dict[int, int] = {}

    @cached_property
    def hypernyms(self) -> dict[int, tuple[int, ...]]:
        """The synsets directly above each synset, those that it is an instance of included."""
        return {
            int(line[:8]): tuple(int(found) for found in _HYPERNYM.findall(line.partition(b"|")[0]))
            for line in self._data.splitlines()
            if not line.startswith(b"  ")  # the licence
        }

    @cached_property
    def depth(self) -> int:
        """Edges of the longest way from any noun to its root; 19 in WordNet 3.0."""
        return max(self.max_depth(synset) for synset in self.hypernyms)

    def min_depth(self, synset: int) -> int:
        """Edges of the shortest way to the root."""
        if synset not in self._min_depths:
            above = [self.min_depth(other) for other in self.hypernyms[synset]]
            self._min_depths[synset] = 1 + min(above) if above else 0
        return self._min_depths[synset]

    def max_depth(self, synset: int) -> int:
        """Edges of the longest way to the root."""
        if synset not in self._max_depths:
            above = [self.max_depth(other) for other in self.hypernyms[synset]]
            self._max_depths[synset] = 1 + max(above) if above else 0
        return self._max_depths[synset]

    def ancestors(self, synset: int) -> dict[int, int]:
        """All that lies above, itself included, and the edges of the shortest way there."""
        found, level, distance = {synset: 0}, {synset}, 0
        while level:
            distance += 1
            level = {other for one in level for other in self.hypernyms[one]} - found.keys()
            found |= dict.fromkeys(level, distance)
        return found

    def name(self, synset: int) -> str:
        """The name that NLTK gives it: its first lemma and which sense of that it is, "tench.n.01"."""
        lemma = self.lemmas(synset)[0].lower()
        return f"{lemma}.n.{self.senses(lemma).index(synset) + 1:02}"

    def lemmas(self, synset: int) -> list[str]:
        """The words of a synset, with underscores for spaces.

        Raises:
            KeyError: there is no such noun.
        """
        if synset not in self.hypernyms:
            raise KeyError(f"{self.where}: no noun synset stands at offset {synset:08}")
        fields = self._data[synset : self._data.index(b"\n", synset)].split(b" ")
        words = int(fields[3], 16)
        return [word.decode("ascii") for word in fields[4 : 4 + 2 * words : 2]]

    def senses(self, lemma: str) -> list[int]:
        """The synsets of a word in lower case, the most frequent sense first; none of an unknown word."""
        fields = self._lines.get(lemma.encode(), b"").split()
        return [int(offset) for offset in fields[-int(fields[1]) :]] if fields else []

    @cached_property
    def _lines(self) -> dict[bytes, bytes]:
        """The line of each word in index.noun, less the word."""
        split = (line.partition(b" ") for line in self._index.splitlines() if not line.startswith(b" "))
        return {lemma: rest for lemma, _, rest in split}


def find_wordnet(path: Path | None) -> WordNet:
    """WordNet in the folder or zip that is given, else in NLTK's folders or where Debian puts it.

    A zip is read where it is; nothing is unpacked.

    Raises:
        FileNotFoundError: there is none; says how to name one.
        ValueError: it is another version, or damaged.
    """
    candidates = [path] if path is not None else list(usual_places())
    for place in candidates:
        files = read_files(place)
        if files is not None:
            return WordNet(*files, where=str(place))
    looked = (
        f"{path}: neither a folder nor a zip with" if path is not None else f"no folder of {VARIABLE} has"
    )
    raise FileNotFoundError(
        f"{looked} the WordNet files {_DATA} and {_INDEX}; give --wordnet FILE.zip (the corpora/wordnet.zip "
        "of NLTK's data, WordNet 3.0) or a folder with both"
    )


def usual_places() -> Iterator[Path]:
    """Where copies of WordNet stand: NLTK's folders, then Debian's package wordnet-base."""
    named = [Path(folder) for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    for folder in (
        *named,
        Path.home() / "nltk_data",
        Path(sys.prefix) / "nltk_data",
        Path("/usr/share/nltk_data"),
    ):
        yield folder / "corpora" / "wordnet.zip"
        yield folder / "corpora" / "wordnet"
    yield Path("/usr/share/wordnet")


def read_files(place: Path) -> tuple[bytes, bytes] | None:
    """data.noun and index.noun of a folder or zip; None where they are not there.

    Raises:
        ValueError: a zip that cannot be read, or a file too large to be WordNet's.
    """
    if place.is_dir():
        paths = [place / name for name in (_DATA, _INDEX)]
        return (paths[0].read_bytes(), paths[1].read_bytes()) if all(p.is_file() for p in paths) else None
    if not place.is_file():
        return None
    try:
        with zipfile.ZipFile(place) as archive:
            members = {Path(info.filename).name: info for info in archive.infolist()}
            if not {_DATA, _INDEX} <= members.keys():
                return None
            if max(members[name].file_size for name in (_DATA, _INDEX)) > MAX_BYTES:
                raise ValueError(f"{place}: {_DATA} or {_INDEX} is larger than {MAX_BYTES} bytes")
            return archive.read(members[_DATA]), archive.read(members[_INDEX])
    except zipfile.BadZipFile as error:
        raise ValueError(f"{place}: not a whole zip ({error}); copy it again") from error
