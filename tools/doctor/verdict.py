"""What a diagnosis says, in words and in tables for the terminal."""

from typing import TYPE_CHECKING, Any

from viewmill.engine.spans import Part
from viewmill.tools.doctor.costs import AUGMENT, COPY, DECODE, READ

if TYPE_CHECKING:
    from rich.console import Group

# So much of the step that the stages alone do not explain, and its parts do not add up to, is told.
LARGE = 0.1
UNKNOWN = "not known"  # on a GPU, of communication behind computing: --traces show it
OTHER_WORK = 0.25  # processors of other programs that are told
WORDS = {
    READ: "storage-bound",
    DECODE: "decode-bound",
    AUGMENT: "augmentation-bound",
    COPY: "bound by the copies to the device",
    Part.FORWARD.value: "bound by the forward",
    Part.BACKWARD.value: "bound by the backward",
    Part.LOSS.value: "bound by the loss",
    Part.OPTIMISER.value: "bound by the optimiser",
    Part.TEACHER.value: "bound by the teacher",
    Part.LOGGING.value: "bound by logging",
    Part.CHECKPOINT.value: "bound by checkpoints",
    "communication": "communication-bound",
}


def verdict(found: dict[str, Any]) -> list[str]:
    """The verdict's lines: what binds and the change worth most, then what else a reader must know."""
    diagnosis, changes, best = found["diagnosis"], found["changes"], found["best"]
    binding, per_s = diagnosis["binding"], diagnosis["images_per_s"]
    views = found["settings"]["views"]["num_threads"]
    threads = f" with views.num_threads={views}" if binding in (DECODE, AUGMENT) else ""
    head = f"{WORDS.get(binding, f'bound by the {binding}')}: {per_s:,.4g} images/s{threads}"
    if best is None:
        lines = [f"{head}; of what was tried nothing helps"]
    else:
        lines = [f"{head}; {told(best)}"]
        other = next((change for change in changes if change["gain"] > 1.2 * best["gain"]), None)
        if other is not None and best["gain"] > 0:
            lines.append(f"worth more, but another training: {told(other)}")
    slow = diagnosis["straggler"]
    if slow is not None:
        lines.append(
            f"rank {slow['rank']} holds the others up: {slow['part']} takes {_ms(slow['seconds'])} ms a step "
            f"there and {_ms(slow['elsewhere_s'])} ms elsewhere; they wait {_ms(slow['waited_s'])} ms"
        )
    busy = found["ranks"][diagnosis["rank"]]["other_work"]
    if busy > OTHER_WORK:
        lines.append(
            f"other programs kept {busy:.1f} of this machine's processors at work meanwhile: measure again "
            "when it is calm"
        )
    off = diagnosis["unexplained_s"] / diagnosis["step_s"]
    if abs(off) > LARGE:
        more = "more" if off > 0 else "less"
        lines.append(
            f"the step takes {abs(off):.0%} {more} than its stages by themselves explain: take predictions "
            "with care"
        )
    return lines


def told(change: dict[str, Any]) -> str:
    """A change in half a line."""
    return f"{change['setting']} -> {change['images_per_s']:,.4g} ({percent(change['gain'])})"


def percent(gain: float) -> str:
    """+12%, and never -0%."""
    return f"{round(100 * gain):+d}%"


def tables(found: dict[str, Any]) -> "Group":
    """The stages, the changes and the ranks, for the terminal."""
    from rich.console import Group
    from viewmill.tools.tables import new_table

    diagnosis, arithmetic = found["diagnosis"], found["arithmetic"]
    title = (
        f"a step of {found['images']} images on {found['world_size']} x {found['device']}: "
        f"{_ms(diagnosis['step_s'])} ms; {_ms(diagnosis['model_step_s'])} ms by its stages"
    )
    headings: tuple[str, ...] = ("stage", "alone, ms", "processors, ms", "in the loop, ms")
    headings += ("answers for, ms", "alone, images/s")
    parts = [new_table(title, headings, [stage_row(stage) for stage in diagnosis["stages"]])]
    rows: list[tuple[str, ...]]
    if found["changes"]:
        rows = [
            (change["setting"], change["note"], f"{change['images_per_s']:,.4g}", percent(change["gain"]))
            for change in found["changes"]
        ]
        parts.append(new_table("changes", ("setting", "", "images/s", "gain"), rows, numbers_from=2))
    if found["world_size"] > 1:
        rows = [
            (str(number), *(_ms(rank["together"].get(part.value, 0.0)) for part in SHOWN), *_sent(rank))
            for number, rank in enumerate(found["ranks"])
        ]
        headings = ("rank", *(part.value for part in SHOWN), "communication", "and hidden")
        parts.append(new_table("ranks, ms of a step in the loop", headings, rows))
    rows = [
        ("waits for data", f"{diagnosis['data_wait_s'] / diagnosis['step_s']:.1%} of the step"),
        *held_up(diagnosis["slowdown"]),
        ("MFU, what the model needs", utilised(arithmetic, "model_flops", "mfu", diagnosis["step_s"])),
        ("HFU, what was computed", utilised(arithmetic, "flops", "hfu", diagnosis["step_s"])),
        ("peak", f"{arithmetic['peak_flops_per_s'] / 1e9:,.4g} GFLOP/s ({arithmetic['peak']})"),
    ]
    return Group(*parts, new_table("", ("", ""), rows))


def utilised(arithmetic: dict[str, Any], flops: str, share: str, step_s: float) -> str:
    """A share of the peak, with the operations of a rank's step."""
    count = arithmetic[flops]
    return f"{arithmetic[share]:.1%}: {count / 1e9:,.4g} GFLOP a step, {count / step_s / 1e9:,.4g} GFLOP/s"


def held_up(slowdown: dict[str, float] | None) -> list[tuple[str, str]]:
    """How much longer training and making views take beside each other, where that was measured."""
    if slowdown is None:
        return []
    told = f"training takes {slowdown['training']:.2f} times as long, views {slowdown['making']:.2f} times"
    return [("beside each other", told)]


SHOWN = (Part.DATA, Part.FORWARD, Part.LOSS, Part.BACKWARD, Part.OPTIMISER)


def stage_row(stage: dict[str, Any]) -> tuple[str, ...]:
    observed, ceiling = stage["observed_s"], stage["ceiling"]
    return (
        stage["name"],
        _ms(stage["alone_s"]),
        _ms(stage["cpu_s"]),
        "ahead" if observed is None else _ms(observed),
        f"{_ms(stage['charged_s'])} ({stage['share']:.0%})",
        "" if ceiling is None else f"{ceiling:,.4g}",
    )


def _sent(rank: dict[str, Any]) -> tuple[str, str]:
    kinds = rank["sent"].values()
    hidden = [kind["hidden_s"] for kind in kinds]
    told = UNKNOWN if None in hidden else _ms(sum(hidden))
    return _ms(sum(kind["exposed_s"] for kind in kinds)), told


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.2f}"
