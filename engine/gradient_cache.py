"""Gradient caching: a loss of all embeddings of a step, with the activations of one micro-batch at a time."""

# V views, A micro-batches of n images on this rank, D embedding width

import torch
from torch import Tensor
from viewmill.engine.step_buffers import StepBuffers
from viewmill.engine.zero import ZeroEngine


class GradientCache:
    """The micro-batches of one step on this rank: `embed` them, take any loss of all, give its gradient back.

    With z_a the embeddings of micro-batch a and L the loss of all of them,

        dL/dw = sum_a (dz_a/dw)^T dL/dz_a

    so dL/dz is all that a micro-batch needs of the others. All but the last one are embedded without a graph,
    and once more, with one, when dL/dz is known; the last one keeps its graph, so that one micro-batch is the
    ordinary step. A second forward draws the random numbers of the first one and finds the buffers that the
    first one found: its embeddings are the same bits wherever the device computes alike with a graph and
    without. Nothing is divided by A. What grows with A is images and embeddings, not activations.
    Source: Gao, Zhang, Han and Callan (2021), Scaling deep contrastive learning batch size under memory
    limited setup, section 3.

    Args:
        engine: of the student.
        micro_batches: A lists of V views (n, 3, S, S), equally many images in each.
    """

    def __init__(self, engine: ZeroEngine, micro_batches: list[list[Tensor]]) -> None:
        self._engine, self._micro_batches = engine, micro_batches
        self._buffers = StepBuffers(engine.module, len(micro_batches), recomputes=engine.recomputes)
        self._device = micro_batches[0][0].device
        self._random: list[list[Tensor]] = []  # states before each forward, and after the last one
        self._kept: list[Tensor] = []  # the last one's embeddings with their graph, until they are used

    def embed(self) -> Tensor:
        """Embeddings (V, A n, D) in the order of the micro-batches, without graph."""
        last = len(self._micro_batches) - 1
        embeddings = []
        for place in range(last):
            with torch.no_grad():
                embeddings.append(self._first_forward(place))
        self._kept = [self._first_forward(last)]
        self._random.append(random_states(self._device))
        return torch.cat([*embeddings, self._kept[0].detach()], dim=1)

    def backward(self, gradient: Tensor) -> None:
        """Leaves the gradients of the weights, from that of the embeddings (V, A n, D); once, after `embed`.

        They reach DeepSpeed, which reduces them over the ranks, in one backward: that of the last forward.
        """
        last = len(self._micro_batches) - 1
        *pulls, pull = gradient.chunk(last + 1, dim=1)
        embeddings = self._kept.pop()
        for place in range(last):
            self._engine.accumulate(embeddings, pull)
            embeddings, pull = self._replay(place), pulls[place]
        # Its gradient with respect to the embeddings is `pull`, to the bit, whatever the sum is.
        self._engine.backward((embeddings * pull).sum())
        self._buffers.settle()
        if last:
            set_random_states(self._device, self._random[-1])

    def _first_forward(self, place: int) -> Tensor:
        self._random.append(random_states(self._device))
        embeddings = self._forward(place, reaches_deepspeed=len(self._micro_batches) == 1)
        self._buffers.end()
        return embeddings

    def _replay(self, place: int) -> Tensor:
        set_random_states(self._device, self._random[place])
        return self._forward(place, reaches_deepspeed=place == len(self._micro_batches) - 2)

    def _forward(self, place: int, reaches_deepspeed: bool) -> Tensor:
        """(V, n, D). DeepSpeed prepares for its backward in its own forward."""
        self._buffers.begin()
        forward = self._engine if reaches_deepspeed else self._engine.forward_aside
        embeddings: Tensor = forward(self._micro_batches[place])
        return embeddings


def random_states(device: torch.device) -> list[Tensor]:
    """The states of torch's generators that a forward on this device draws from."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_random_states(device: torch.device, states: list[Tensor]) -> None:
    """Puts back what `random_states` gave."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
