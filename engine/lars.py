"""LARS whose norms are those of whole parameters, however ZeRO cuts them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Stretch(NamedTuple):
    """Where numbers of one parameter lie in a flat share of a whole group."""

    parameter: int  # its place among the group's parameters, the same on every rank
    start: int
    numel: int


class Share(NamedTuple):
    """What a flat tensor of this rank holds of a group's parameters; the rest of it is padding."""

    num_parameters: int  # of the group, on all ranks together
    stretches: tuple[Stretch, ...]

    def cut(self, flat: Tensor) -> Iterator[Tensor]:
        """Views of the stretches of a flat tensor."""
        return (flat.narrow(0, start, numel) for _, start, numel in self.stretches)


class LARS(torch.optim.Optimizer):
    """SGD with momentum, the step of each parameter in proportion to its norm.

    With u = g + weight_decay w:  v <- momentum v + u trust |w| / |u|;  w <- w - lr v. The factor is 1 where
    one of the norms is 0, and in groups whose `adapts` is False: biases and norms, without decay too.
    Source: You, Gitman and Ginsburg, Large batch training of convolutional networks, algorithm 1; with the
    learning rate outside of the momentum and the decay inside of the norm, as in IMSVD's baselines.

    Args:
        groups: `params`, `weight_decay` and `adapts` of each.
        lr: of the first steps. momentum: 0 keeps none.
        trust: the share of its own norm that a parameter moves by at a learning rate of 1.
    """

    overflow = False  # while set, a step does nothing, which DeepSpeed counts as a skipped one

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, trust: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "trust": trust})
        self._shares: dict[int, Share] = {}  # by the id of the flat tensor
        self._sum_over_ranks: Callable[[Tensor], Any] | None = None

    def divide(self, shares: Mapping[Tensor, Share], sum_over_ranks: Callable[[Tensor], Any]) -> None:
        """From now on each group is one flat tensor, this rank's share of its parameters.

        Args:
            shares: what is in each of these tensors.
            sum_over_ranks: sums in place over the ranks; all of them call it, once for a group that adapts.
        """
        self._shares = {id(flat): share for flat, share in shares.items()}
        self._sum_over_ranks = sum_over_ranks

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Moves the weights by their gradients."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights and not self.overflow:
                self._move(weights, group)

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        updates: list[Any] = [weight.grad for weight in weights]
        if group["weight_decay"]:
            updates = list(torch._foreach_add(updates, weights, alpha=group["weight_decay"]))
        if group["adapts"]:
            updates = list(torch._foreach_mul(updates, self._factors(weights, updates, group["trust"])))
        if group["momentum"]:
            held = [self._momentum_of(weight) for weight in weights]
            torch._foreach_mul_(held, group["momentum"])
            torch._foreach_add_(held, updates)
            updates = held
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _momentum_of(self, weight: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return state["momentum_buffer"]

    def _factors(self, weights: list[Tensor], updates: list[Tensor], trust: float) -> list[Tensor]:
        """What each update is multiplied by: a number, or one for each number of a flat share."""
        share = self._shares.get(id(weights[0]))
        if share is None or self._sum_over_ranks is None:
            return list(trust_ratios(torch.stack([norms(weights), norms(updates)]), trust))
        squares = weights[0].new_zeros(2, share.num_parameters, dtype=_sum_type(weights[0]))
        if share.stretches:
            lengths = torch.stack([norms(list(share.cut(flat))) for flat in (weights[0], updates[0])])
            squares[:, [one.parameter for one in share.stretches]] = lengths.square()
        self._sum_over_ranks(squares)
        found = trust_ratios(squares.sqrt(), trust)
        factors = torch.zeros_like(weights[0])
        for piece, (parameter, _, _) in zip(share.cut(factors), share.stretches, strict=True):
            piece.fill_(found[parameter])
        return [factors]


def norms(tensors: list[Tensor]) -> Tensor:
    """Their L2 norms in float32 (float64 of such): (n,)."""
    return torch.stack(torch._foreach_norm(tensors)).to(_sum_type(tensors[0]))


def _sum_type(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def trust_ratios(lengths: Tensor, trust: float) -> Tensor:
    """trust |w| / |u| of norms |w|, |u| (2, P); 1 where one of them is 0: (P,)."""
    of_weights, of_updates = lengths
    there = (of_weights > 0) & (of_updates > 0)
    return torch.where(there, trust * of_weights / of_updates, 1.0)
