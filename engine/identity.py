"""What makes two computations the same: hashes of a model's weights and of a data set's content."""

import hashlib

import torch
from torch import nn
from viewmill.shards.manifest import Dataset


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and numbers of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def content_hash(dataset: Dataset) -> list[str]:
    """The data set's hash, which its pixels are no part of, and that of its manifest, which holds theirs."""
    return [dataset.data_set_hash, dataset.info.file("manifest.bin").sha256]
