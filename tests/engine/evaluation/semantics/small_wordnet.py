"""A WordNet of a few nouns, in the format of its files."""

# name: hypernyms. A diamond with a short cut: whale is an animal by three edges and by one.
SYNSETS = {
    "entity": (),
    "animal": ("entity",),
    "vertebrate": ("animal",),
    "mammal": ("vertebrate",),
    "swimmer": ("animal",),
    "whale": ("mammal", "swimmer"),
    "otter": ("mammal", "swimmer"),
    "dog": ("mammal",),
    "artifact": ("entity",),
    "boat": ("artifact",),
}


def small_files(synsets: dict[str, tuple[str, ...]] = SYNSETS, version: str = "3.0") -> tuple[bytes, bytes]:
    """data.noun and index.noun of these synsets, in WordNet's format."""
    licence = f"  1 This is WordNet {version} of a test | @ 00000000 n 0000  \n"
    offsets, at = {}, len(licence)
    for name, above in synsets.items():
        offsets[name] = at
        at += len(data_line(0, name, [0] * len(above)))
    lines = [data_line(offsets[name], name, [offsets[x] for x in above]) for name, above in synsets.items()]
    index = "".join(f"{name} n 1 1 @ 1 0 {offset:08}  \n" for name, offset in sorted(offsets.items()))
    return (licence + "".join(lines)).encode(), (licence + index).encode()


def data_line(offset: int, name: str, above: list[int]) -> str:
    pointers = "".join(f"@ {other:08} n 0000 " for other in above)
    return f"{offset:08} 03 n 01 {name} 0 {len(above):03} {pointers}| a gloss with @ {offset:08} n 0000  \n"
