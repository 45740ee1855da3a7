"""Which noun of WordNet a class means, and the words that name it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

import yaml
from viewmill.engine.evaluation.semantics.wordnet import WordNet

TABLE = "class_synsets.yaml"  # names of CIFAR-10, CIFAR-100 and STL-10
_IMAGENET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ClassMeanings:
    """What the classes of a data set mean, in their order."""

    synsets: list[int]  # offsets in data.noun
    texts: list[str]  # what a text model reads


def meanings_of(classes: Sequence[str], wordnet: WordNet, table: Path | None = None) -> ClassMeanings:
    """The synset and name of each class; of a class in a folder of folders the last part of its path counts.

    An ImageNet id is the synset's offset, and its text the synset's first word. Any other name is looked up
    in `table`, then in the table of this package; its text is the name itself.

    Args:
        table: YAML of "class name: synset", a synset being "crane.n.04" or an ImageNet id.

    Raises:
        ValueError: a class with neither (names the first ones), or an entry that is no noun synset.
    """
    known = read_table(resources.files(__package__).joinpath(TABLE).read_text(encoding="utf-8"), TABLE)
    if table is not None:
        known |= read_table(table.read_text(encoding="utf-8"), str(table))
    names = [PurePosixPath(name).name for name in classes]
    lost = [name for name in names if name not in known and not _IMAGENET_ID.fullmatch(name)]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise ValueError(
            f"semantics: no WordNet synset is known for the classes {', '.join(lost[:3])}{more}; classes "
            "are to be named by ImageNet ids, or give --synsets FILE with lines like 'crane: crane.n.04'"
        )
    synsets = [synset_of(known.get(name, name), wordnet) for name in names]
    texts = [
        (name if name in known else wordnet.lemmas(synset)[0]).replace("_", " ")
        for name, synset in zip(names, synsets, strict=True)
    ]
    return ClassMeanings(synsets, texts)


def read_table(text: str, where: str) -> dict[str, str]:
    """Synsets by class name. Raises ValueError: not YAML of names, or something else than names in it."""
    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(table, dict) or not all(isinstance(x, str) for pair in table.items() for x in pair):
        raise ValueError(f"{where}: expected lines like 'crane: crane.n.04', a class name and its synset")
    return table


def synset_of(word: str, wordnet: WordNet) -> int:
    """The offset of "crane.n.04" or "n02012849". Raises ValueError: WordNet has no such noun synset."""
    if _IMAGENET_ID.fullmatch(word):
        synset = int(word[1:])
        if synset in wordnet.hypernyms:
            return synset
    else:
        lemma, _, sense = word.rpartition(".n.")
        senses = wordnet.senses(lemma) if sense.isascii() and sense.isdigit() else []
        if 1 <= int(sense if senses else 0) <= len(senses):
            return senses[int(sense) - 1]
    raise ValueError(f"{word}: {wordnet.where} has no such noun synset; write it as crane.n.04 or n02012849")
