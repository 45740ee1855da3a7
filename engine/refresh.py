"""New values for tensors of the head between two steps: in the student, its optimiser and the teacher."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor
from viewmill.engine.fragments import WEIGHT, slots
from viewmill.engine.partition import write
from viewmill.engine.teacher import Teacher
from viewmill.engine.zero import ZeroEngine

HEAD = "method.head."  # what the names of the head's tensors begin with in the student
# Means of past gradients, by any optimiser's word: they point where the old values wanted to go.
_DIRECTED = ("exp_avg", "momentum_buffer")


@torch.no_grad()
def replace_in_head(engine: ZeroEngine, teacher: Teacher, new: Mapping[str, Tensor]) -> None:
    """Puts new values in place of parameters or buffers of student and teacher; every rank calls it.

    The teacher takes them at once: following step by step, it would stand between old and new for long. Of
    the optimiser's state the mean gradient becomes zero. AdamW's mean square stays, as a scale that changes
    little: without it, with the count of steps that all weights share, the next step would be three times
    as long.

    Args:
        new: by name in the head, float32, of the tensors' shapes, equal on all ranks.

    Raises:
        KeyError: the head has no such tensor.
    """
    if not new:
        return
    own = dict(chain(teacher.head.named_parameters(), teacher.head.named_buffers()))
    for name, value in new.items():
        write(own[name], value)
    buffers = dict(engine.module.named_buffers())
    for name in new.keys() & {buffer.removeprefix(HEAD) for buffer in buffers}:
        buffers[HEAD + name].copy_(new[name])
    for slot in slots(engine):
        name = slot.name.removeprefix(HEAD)
        if name == slot.name or name not in new:
            continue
        slot.write(WEIGHT, new[name].reshape(-1)[slot.offset : slot.offset + slot.numel])
        for kind in slot.tensors.keys() & set(_DIRECTED):
            slot.tensors[kind].zero_()
    engine.publish_weights()
