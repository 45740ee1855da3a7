"""Whether a prior or centre that is renewed now and then keeps up with the teacher that it is of."""

import math

from viewmill.engine.config import RunConfig
from viewmill.engine.method_config import CopyTeacher, DatasetScope, DistillConfig, StreamingScope
from viewmill.engine.scheduled import numbers_of

# Above it cluster sizes swing, above pi / 2 they run away, even if the student did just what it is told.
MOST_LAG = 1 / math.e


def stale_notice(config: RunConfig, steps_per_epoch: int) -> str | None:
    """A line about a prior or centre that will be out of date; None: nothing is amiss.

    Let x be the logarithm of the teacher's cluster sizes. Targets divided by sizes that are `lag` steps old
    teach the student x(t) - x(t - lag), which a teacher of momentum m follows:

        dx/dt = (1 - m) (x(t) - x(t - lag) - x(t)) = -(1 - m) x(t - lag)

    whose solutions decay without swings for (1 - m) lag <= 1/e, and grow from pi/2 on. The growth of a
    cluster is then seen too late to be held back, and images fall together. Of a teacher that is copied a
    pass after the copy gives the exact prior.
    """
    method = config.method
    if not isinstance(method, DistillConfig) or not isinstance(method.scope, DatasetScope | StreamingScope):
        return None
    scope, teacher, is_pass = method.scope, method.teacher, isinstance(method.scope, DatasetScope)
    what = "centre" if method.normalization == "center" else "prior"
    if isinstance(teacher, CopyTeacher):
        if is_pass and teacher.every_epochs % scope.every_epochs == 0:
            return None
        old = "of the teacher before" if not is_pass else f"renewed every {scope.every_epochs} epochs only"
        return (
            f"the {what} is {old}, and the teacher is a new one every {teacher.every_epochs} epochs: "
            f"set method.scope={{kind: dataset, every_epochs: {teacher.every_epochs}}}"
        )
    # A window is used up to its own length after its end, so its rows are 1.5 windows old in the mean.
    lag = scope.every_epochs * steps_per_epoch * (1.0 if is_pass else 1.5)
    moved = (1 - numbers_of(teacher.momentum)[0]) * lag
    if moved <= MOST_LAG:
        return None
    slow = 1 - MOST_LAG / lag
    copied = "method.teacher={kind: copy}, " if is_pass else ""
    return (
        f"the {what} gets {lag:.0f} steps old while the teacher moves by {moved:.2f} of its way to the "
        f"student (1 - momentum, times steps; at most {MOST_LAG:.2f} is safe): clusters may grow unseen "
        f"until images fall together; set {copied}method.scope=ema, or a momentum from {slow:.5f} on"
    )
