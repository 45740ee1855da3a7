"""Everything that a plan says, as one object: for the terminal, for JSON and for the page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from viewmill.engine.config import ConfigError, RunConfig
from viewmill.tools.html_page import figure
from viewmill.tools.planning.advice import Advice, advise
from viewmill.tools.planning.cluster import Cluster
from viewmill.tools.planning.images import Images
from viewmill.tools.planning.measured import Measured, from_datasheet, read_measured
from viewmill.tools.planning.predict import Plan, Prediction, by_stage, fits, predict
from viewmill.tools.planning.reliability import (
    NEVER,
    Reliable,
    Tried,
    as_dict,
    goodput_by_logbook,
    reliability_of,
)
from viewmill.tools.planning.scaling import Curve, strong, weak
from viewmill.tools.planning.step import RESOURCES
from viewmill.tools.planning.view_makers import executor_of, images_per_device_s, is_on_device, not_modelled
from viewmill.tools.planning.workload import count_workload

Rows = list[tuple[str, ...]]
GB = 1e9


class Report(NamedTuple):
    """What `viewmill plan` shows."""

    prediction: Prediction
    stages: list[dict[str, Any]]
    advice: Advice | None
    reliable: Reliable | None
    logbooks: dict[
        str, tuple[float, float]
    ]  # name -> (mean days between failures, goodput of the closed form)
    curves: dict[str, Curve]

    @property
    def cost_with_failures(self) -> float | None:
        """At the recipe's interval of checkpoints; None: no price, or it is never done."""
        cluster = self.prediction.plan.cluster
        hours = self.prediction.hours if self.reliable is None else self.reliable.hours
        if hours is None or cluster.price_per_node_hour is None:
            return None
        return hours * cluster.nodes * cluster.price_per_node_hour

    def lines(self) -> list[str]:
        """What binds, and what to do about it."""
        made = self.prediction
        said = [f"binding: {made.binding}; speeds: {made.plan.rates.source}"]
        plan = made.plan
        said += not_modelled(plan.config, plan.images, plan.cluster.gpu)
        if self.advice is not None:
            verb = "then" if self.advice.removes else "still"
            said.append(
                f"change: {self.advice.change}: {figure(self.advice.images_per_s)} images/s "
                f"({self.advice.gain:.2f} x), {verb} {self.advice.binding} binds"
            )
        if self.reliable is not None and self.reliable.hours is None:
            said.append(never_done(self.reliable))
        if not fits(made.memory, made.plan.cluster):
            said.append(
                "memory: a rank does not fit its device; raise accumulation, take more nodes, or a ZeRO "
                "stage that fits"
            )
        return said

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        made = self.prediction
        return {
            "cluster": made.plan.cluster.model_dump(mode="json"),
            "measured": made.plan.rates.model_dump(mode="json"),
            "images": made.plan.images.model_dump(mode="json"),
            "world_size": made.world_size,
            "batch_size": made.plan.config.batch_size,
            "work": made.plan.work._asdict() | {"step_flops_per_image": made.plan.work.step_flops},
            "images_per_s": made.images_per_s,
            "step_s": made.step_s,
            "step_bounds_s": [made.step.least, made.step.most],
            "seconds": made.seconds,
            "binding": made.binding,
            "views": {
                "executor": executor_of(made.plan.config),
                "on_device": is_on_device(made.plan.config),
                "not_modelled": not_modelled(made.plan.config, made.plan.images, made.plan.cluster.gpu),
            },
            "steps_per_epoch": made.steps_per_epoch,
            "hours": made.hours,
            "cost": made.cost,
            "cost_with_failures": self.cost_with_failures,
            "memory": made.memory._asdict() | {"fits": fits(made.memory, made.plan.cluster)},
            "sent_bytes_per_step": made.sent_bytes,
            "page_cache": {"bytes": made.cache_bytes, "fits": made.is_cached},
            "zero_stages": self.stages,
            "advice": None if self.advice is None else self.advice._asdict(),
            "reliability": as_dict(self.reliable),
            "logbooks": {
                name: {"mtbf_days": days, "goodput": goodput}
                for name, (days, goodput) in self.logbooks.items()
            },
            "scaling": {
                name: [point._asdict() for point in curve.points] for name, curve in self.curves.items()
            },
            "scaling_left_out": {name: curve.left_out for name, curve in self.curves.items()},
            "formulas": [formula.as_dict() for formula in made.formulas],
        }


def make_report(
    config: RunConfig,
    images: Images,
    cluster: Cluster,
    measured: Path | None,
    *,
    runs: int,
    seed: int,
    progress: Callable[[], None] | None = None,
) -> Report:
    """Counts, predicts and simulates; `progress` is called after each simulated run.

    Raises:
        ConfigError: recipe, images and cluster do not fit each other.
    """
    if cluster.gpu is None and config.precision == "fp16":
        raise ConfigError(
            f"precision=fp16: {cluster.name} has no GPU, and no CPU trains in it; take fp32 or bf16"
        )
    config = config.model_copy(update={"device": "cpu" if cluster.gpu is None else "cuda"})
    rates: Measured = from_datasheet(cluster, config) if measured is None else read_measured(measured)
    plan = Plan(config, count_workload(config), images, cluster, rates)
    made = predict(plan)
    return Report(
        prediction=made,
        stages=by_stage(plan),
        advice=advise(made),
        reliable=reliability_of(made, runs=runs, seed=seed, progress=progress),
        logbooks=goodput_by_logbook(made),
        curves={"strong": strong(plan), "weak": weak(plan)},
    )


def never_done(found: Reliable) -> str:
    """The verdict on a run that failures keep from its end."""
    told = (
        f"failures: one in {clock(found.mtbf_s)} leaves under {NEVER:.0%} goodput, so the run is never done"
    )
    if found.best.hours is None:
        return f"{told}; take fewer nodes, or check failures_per_node_day and restart_s"
    return f"{told}; checkpoint.every_steps={found.best_steps}: {found.best.hours:,.4g} hours"


def tables_of(report: Report) -> list[tuple[str, tuple[str, ...], Rows]]:
    """(title, headings, rows) of each table."""
    made = report.prediction
    return [
        ("plan", ("", ""), summary_rows(report)),
        ("a step", ("resource", "seconds alone", "share of the step"), resource_rows(made)),
        (
            "a rank by ZeRO stage",
            ("stage", "between steps, GB", "peak, GB", "host, GB", "sent a step, GB", "fits"),
            [stage_row(row) for row in report.stages],
        ),
        ("failures", ("", ""), reliability_rows(report)),
        (
            "scaling",
            ("nodes", "strong: images/s", "efficiency", "binds", "weak: images/s", "efficiency", "binds"),
            scaling_rows(report.curves),
        ),
        *left_out_tables(report.curves),
    ]


def summary_rows(report: Report) -> Rows:
    made, plan = report.prediction, report.prediction.plan
    cache = "fits" if made.is_cached else "does not fit"
    sent = ", ".join(f"{what} {size / 1e6:,.2f}" for what, size in made.sent_bytes.items())
    return [
        ("ranks", f"{made.world_size} = {plan.cluster.nodes} nodes x {plan.cluster.local_ranks}"),
        ("images/s", figure(made.images_per_s)),
        ("step", f"{made.step_s:.4g} s of {plan.config.batch_size} images{bounds_of(made)}"),
        ("hours", f"{made.hours:,.4g} without failures, {hours_of(report)} with them"),
        ("cost", cost_of(report)),
        ("GFLOP an image", f"{plan.work.step_flops / 1e9:,.4g} forward and backward"),
        ("weights", f"{plan.work.weights:,}, of them {plan.work.head_weights:,} of the head"),
        ("memory of a rank", f"{made.memory.peak / GB:,.3g} GB at most"),
        ("sent by a rank, MB a step", sent or "nothing"),
        ("page cache", f"{made.cache_bytes / GB:,.4g} GB a node; {cache}"),
    ]


def hours_of(report: Report) -> str:
    hours = report.prediction.hours if report.reliable is None else report.reliable.hours
    return "never done" if hours is None else f"{hours:,.4g}"


def cost_of(report: Report) -> str:
    if report.prediction.cost is None:
        return "no price: --set price_per_node_hour=..."
    whole = report.cost_with_failures
    told = "never done" if whole is None else figure(whole)
    return f"{figure(report.prediction.cost)} without failures, {told} with them"


def bounds_of(made: Prediction) -> str:
    """Where nobody knows how far views and the device overlap: from all to nothing."""
    least, _, most = sorted(made.step)
    return f"; {least:.4g} if the device hides the views, {most:.4g} if nothing does" if most > least else ""


def resource_rows(made: Prediction) -> Rows:
    """A row a resource; of the two that can make views, the one that does."""
    config, gpu = made.plan.config, made.plan.cluster.gpu
    rows: Rows = []
    for name in RESOURCES:
        if name == ("decode" if is_on_device(config) else "device_views"):
            continue
        label = name + (" (binds)" if name == made.binding else "")
        if name == "device_views" and images_per_device_s(config, made.plan.work, gpu) is None:
            rows.append((label, "not modelled", ""))
            continue
        seconds = made.seconds[name]
        rows.append((label, f"{seconds:.4g}", f"{100 * seconds / made.step_s:.1f} %"))
    return rows


def stage_row(row: dict[str, Any]) -> tuple[str, ...]:
    name = f"{row['stage']}, optimiser on the host" if row["offload_optimizer"] else str(row["stage"])
    sizes = (row[key] / GB for key in ("held_bytes", "peak_bytes", "host_bytes", "sent_bytes"))
    return (name, *(f"{size:,.3g}" for size in sizes), "yes" if row["fits"] else "no")


def reliability_rows(report: Report) -> Rows:
    found = report.reliable
    if found is None:
        return [("failures", "none: failures_per_node_day is 0")]
    best = "too few failures to tell: a longer run, or --runs" if found.simulated_s is None else ""
    stall_s, commit_s = found.best.checkpointing
    young_daly = f"Young {clock(found.young_s)}, Daly {clock(found.daly_s)}"
    rows: Rows = [
        ("mean time between failures", f"{found.mtbf_s / 86_400:.3g} days"),
        ("a checkpoint", f"stalls {stall_s:.3g} s, whole {commit_s:.3g} s later"),
        (
            "best interval",
            f"{clock(found.best.interval_s)} ({young_daly}): checkpoint.every_steps={found.best_steps}",
        ),
        ("best of the simulated", best or clock(found.simulated_s or 0.0)),
        *tried_rows("at the best interval", found.best),
        *tried_rows(f"at the recipe's, {found.own_steps:,} steps ({clock(found.own.interval_s)})", found.own),
    ]
    rows += [
        (f"at the rate of {name}", f"a failure in {days:.3g} days, goodput {100 * share:.2f} %")
        for name, (days, share) in report.logbooks.items()
    ]
    return rows


def tried_rows(name: str, tried: Tried) -> Rows:
    """Goodput and hours at an interval of checkpoints."""
    closed = f"{100 * tried.closed_form:.2f} % in closed form: failures and checkpoints alone"
    if tried.goodput is None:
        return [(name, f"under {NEVER:.0%} goodput: it is never done, and was not simulated")]
    goodput = tried.goodput
    shares = {kind: share for kind, share in goodput.spent_fraction.items() if share}
    spent = ", ".join(f"{kind} {100 * share:.3g} %" for kind, share in shares.items())
    error = f"{100 * goodput.standard_error:.2f}"
    return [
        (f"{name}: goodput", closed),
        ("simulated", f"{100 * goodput.goodput:.2f} +- {error} %: {spent}"),
        ("hours", f"{tried.hours or 0.0:,.4g} with all of that, {goodput.failures:.2g} failures"),
    ]


def clock(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"


def scaling_rows(curves: dict[str, Curve]) -> Rows:
    """A row a number of nodes."""
    rows: Rows = []
    by_nodes = {name: {point.nodes: point for point in curve.points} for name, curve in curves.items()}
    left_out = {nodes for curve in curves.values() for nodes in curve.left_out}
    for nodes in sorted(left_out.union(*by_nodes.values())):
        row = [str(nodes)]
        for name in ("strong", "weak"):
            point = by_nodes[name].get(nodes)
            if point is None:
                row += ["see below", "", ""]
            else:
                row += [figure(point.images_per_s), f"{100 * point.efficiency:.0f} %", point.binding]
        rows.append(tuple(row))
    return rows


def left_out_tables(curves: dict[str, Curve]) -> list[tuple[str, tuple[str, ...], Rows]]:
    """Where the run cannot be, and why; none where it can be everywhere."""
    rows: Rows = [
        (name, str(nodes), why) for name, curve in curves.items() for nodes, why in curve.left_out.items()
    ]
    return [("not on the curves", ("curve", "nodes", "why"), rows)] if rows else []
