"""What the engine needs of a method; the methods themselves are in families/."""

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn
from torch.distributed import ProcessGroup
from viewmill.methods.accumulator import Accumulator

# The numbers that a method takes at a step: they may follow a schedule, which the engine knows.
Values = Mapping[str, float]


class MethodLoss(NamedTuple):
    """The loss of the global batch, and what to log beside it: 0-dim tensors without gradient."""

    loss: Tensor
    metrics: dict[str, Tensor]


class PassOutcome(NamedTuple):
    """What a pass over the data set changes beside the method's own buffers."""

    head: dict[str, Tensor]  # new values of the head's tensors by name, for student and teacher
    figures: dict[str, float]  # for the log


class Method(nn.Module):
    """A loss with the head in front of it.

    All its state beside the head's weights lies in buffers: they are saved in checkpoints, taken back where a
    step is skipped, and must be equal on all ranks. Where it has a teacher, the engine keeps a copy of
    backbone and head, lets it follow the student, and hands over what the copied backbone says.
    """

    views: ClassVar[str]  # the preset that it wants
    # What goes through the network at once, so what a BatchNorm sees: all views, those of one size, or each
    # by itself. The backbone takes one size at a time also where the head takes all views.
    forwards: ClassVar[Literal["all", "size", "view"]] = "all"
    has_teacher: ClassVar[bool] = False
    # Its `targets` are the labels of this rank's images, (n,) int64, none of them -1.
    needs_labels: ClassVar[bool] = False

    head: nn.Module  # only where `has_teacher`: what the teacher has a copy of

    def embed(self, representation: Tensor) -> Tensor:
        """(m, F) -> (m, D)."""
        raise NotImplementedError

    def targets(
        self, head: nn.Module, representation: Tensor, values: Values, group: ProcessGroup | None = None
    ) -> Tensor:
        """What the teacher asks of the student; called once a step, only where `has_teacher`.

        Args:
            head: the teacher's.
            representation: (Vt, n, F), of the teacher's backbone for the largest views.
        """
        raise NotImplementedError(f"{type(self).__name__} has no teacher")

    def loss(
        self,
        z: Tensor,
        values: Values,
        targets: Tensor | None = None,
        group: ProcessGroup | None = None,
    ) -> MethodLoss:
        """Loss of the embeddings (V, n, D), V views of this rank's n images, in the order of the preset.

        `targets`: what `targets` gave where `has_teacher`, the labels where `needs_labels`, else None.
        It changes no buffer: between the forwards of a step and their backwards these are the engine's.
        """
        raise NotImplementedError

    def before_epoch(self, epoch: int) -> None:
        """Called on every rank before the first step of each epoch, also of the first."""

    def pass_sums(self, head: nn.Module, epoch: int, values: Values) -> dict[str, Accumulator]:
        """What a pass of the teacher over all samples should add up before this epoch; {}: no pass.

        Args:
            head: the teacher's, as in `pass_rows` and `take_pass`.
        """
        return {}

    def pass_rows(self, head: nn.Module, representation: Tensor) -> dict[str, Tensor]:
        """Rows for sums by name, of the teacher's representations (n, F) of n samples; all that it knows."""
        raise NotImplementedError

    def take_pass(self, head: nn.Module, sums: Mapping[str, Accumulator]) -> PassOutcome:
        """The pass is over, and its sums are pooled over all ranks; every rank gives the same."""
        raise NotImplementedError

    def diagnostics(
        self, z: Tensor, values: Values, targets: Tensor | None = None, group: ProcessGroup | None = None
    ) -> dict[str, Tensor]:
        """Figures that tell a collapse, 0-dim; called on all ranks, only at steps that are logged."""
        raise NotImplementedError

    def alarms(self, figures: Mapping[str, float], values: Values) -> dict[str, str]:
        """Name -> what is wrong and which setting is likely to help, by the figures of one logged step."""
        raise NotImplementedError
