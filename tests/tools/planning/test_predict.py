"""The prediction by hand: seconds of each resource, which one binds, and formulas that are what is done."""

from dataclasses import dataclass
from typing import Any

import pytest
from viewmill.engine.strict import ConfigError
from viewmill.tools.planning.advice import advise, changes
from viewmill.tools.planning.cluster import load_cluster
from viewmill.tools.planning.images import Images
from viewmill.tools.planning.predict import by_stage, collective_seconds, predict
from viewmill.tools.planning.step import ON_DEVICE, RESOURCES
from viewmill.tools.planning.traffic import Collective

from tests.tools.planning.plans import RATES, WORK, cluster, config, plan


def test_compute_is_flops_over_speed_and_the_update() -> None:
    made = predict(plan())
    # 4 images a rank (64 over 16), three forwards of 3 GFLOP each, at 1 TFLOP/s; a million weights at 1e9/s.
    assert made.seconds["compute"] == pytest.approx(4 * 3 * 3e9 / 1e12 + 1e6 / 1e9)


def test_batchnorm_over_ranks_costs_by_its_calls_and_the_numbers_it_normalises() -> None:
    work = WORK._replace(batchnorm_numbers=1e6, batchnorm_channels=(64,) * 20)
    slow = RATES.model_copy(update={"global_norm_s": 1e-9, "global_norm_call_s": 1e-3})
    more = predict(plan(work=work, rates=slow)).seconds["compute"] - predict(plan()).seconds["compute"]
    assert more == pytest.approx(4 * 1e6 * 1e-9 + 20 * 1e-3)
    alone = load_cluster("cpu", ["ranks_per_node=1"])
    one = plan(config(device="cpu"), work=work, cluster=alone)
    assert predict(one).seconds["compute"] == predict(one._replace(rates=slow)).seconds["compute"]


def test_decoding_is_shared_by_the_threads_of_a_node() -> None:
    made = predict(plan())
    # 32 images a node of 1 ms, 8 ranks with 4 threads each.
    assert made.seconds["decode"] == pytest.approx(32 * 1e-3 / 32)
    fewer = plan(cluster=cluster(cpu_threads=16, physical_cores=8))
    assert predict(fewer).seconds["decode"] == pytest.approx(32 * 1e-3 / 8)


def test_images_that_fit_the_page_cache_are_read_once() -> None:
    cold = predict(plan(cluster=cluster(host_memory_gb=0.5)))
    assert not cold.is_cached
    assert cold.seconds["storage"] == pytest.approx(32 * 1e5 / 24e9)
    warm = predict(plan())
    # Two nodes and ten epochs: half of what is left is new each time.
    assert warm.seconds["storage"] == pytest.approx(cold.seconds["storage"] * (2 - 2**-9) / 10)


def test_the_step_is_the_longest_of_what_overlaps() -> None:
    made = predict(plan())
    device = sum(made.seconds[name] for name in ("compute", "loss", "network"))
    assert made.step_s == max(device, made.seconds["decode"], made.seconds["storage"])
    assert made.images_per_s == pytest.approx(64 / made.step_s)
    assert made.hours == pytest.approx(10 * 100 * made.step_s / 3600)


def test_a_run_ends_with_its_epochs_or_its_steps_whichever_comes_first() -> None:
    step_s = predict(plan()).step_s
    for max_steps, steps in ((10**9, 1000), (1000, 1000), (30, 30)):
        assert predict(plan(config(max_steps=max_steps))).hours == pytest.approx(steps * step_s / 3600)


def test_where_views_take_every_thread_the_step_is_between_all_and_nothing_hidden() -> None:
    roomy, full = (predict(plan(cluster=cluster(cpu_threads=threads))) for threads in (40, 39))
    assert roomy.step.least == roomy.step.most == roomy.step_s
    device = sum(full.seconds[name] for name in ON_DEVICE)
    assert full.step.least == pytest.approx(max(device, full.seconds["decode"]))
    assert full.step.most == pytest.approx(device + full.seconds["decode"])
    assert full.step_s / full.step.least == pytest.approx(full.step.most / full.step_s)
    assert full.step.most > full.step.least


def test_leaving_the_ranks_a_thread_is_advised_where_views_take_every_one() -> None:
    slow = RATES.model_copy(update={"views": RATES.views.model_copy(update={"image_s": 0.03})})
    made = predict(plan(cluster=cluster(cpu_threads=39), rates=slow))
    advice = advise(made)
    assert advice is not None
    assert advice.change == "views.num_threads=3"
    assert advice.gain == pytest.approx(made.step_s / (32 * 0.03 / 24))


def test_ranks_that_share_cores_do_one_after_the_other_and_take_turns() -> None:
    two = load_cluster("cpu", ["physical_cores=1"])
    made = predict(
        plan(config(device="cpu"), cluster=two, rates=RATES.model_copy(update={"shares_cores": True}))
    )
    serial = sum(made.seconds[name] for name in ("compute", "loss", "network", "decode"))
    assert made.step_s == pytest.approx(2 * serial)


@dataclass
class Slowed:
    """A plan in which one resource is far slower than all others."""

    resource: str
    changes: dict[str, Any]


SLOW_VIEWS = RATES.views.model_copy(update={"image_s": 9.0})
SLOWED = [
    Slowed("compute", {"rates": RATES.model_copy(update={"conv_flops_per_s": 1e8})}),
    Slowed("loss", {"rates": RATES.model_copy(update={"loss_flops_per_s": 1e4})}),
    Slowed("decode", {"rates": RATES.model_copy(update={"views": SLOW_VIEWS})}),
    Slowed("storage", {"images": Images(count=6400, mean_bytes=1e12, mean_pixels=1e5)}),
    Slowed("network", {"cluster": cluster(nic_gb_s=1e-3)}),
]  # fmt: skip


@pytest.mark.parametrize("slowed", SLOWED, ids=lambda slowed: slowed.resource)
def test_the_resource_that_is_slow_binds(slowed: Slowed) -> None:
    made = predict(plan(**slowed.changes))
    assert made.binding == slowed.resource
    assert set(made.seconds) == set(RESOURCES)


@pytest.mark.parametrize("slowed", SLOWED, ids=lambda slowed: slowed.resource)
def test_advice_is_faster_by_what_it_says(slowed: Slowed) -> None:
    made = predict(plan(**slowed.changes))
    advice = advise(made)
    assert advice is not None
    assert advice.gain > 1.01
    assert advice.images_per_s == pytest.approx(advice.gain * made.images_per_s)
    assert advice.removes == (advice.binding != made.binding)


def test_threads_are_advised_before_hardware() -> None:
    slow = RATES.model_copy(update={"views": RATES.views.model_copy(update={"image_s": 0.1})})
    advice = advise(predict(plan(config(views={"num_threads": 1, "executor": "host"}), rates=slow)))
    assert advice is not None
    assert advice.change.startswith("views.num_threads=")


def test_a_stage_that_sends_less_is_advised_where_the_network_binds() -> None:
    slow = {"cluster": cluster(nic_gb_s=1e-3), "rates": RATES.model_copy(update={"latency_s": 0.0})}
    made = predict(plan(config(zero={"stage": 2}), **slow))
    assert made.binding == "network"
    tried = dict(changes(made))
    less = predict(tried["zero.stage=0"])
    assert less.sent_bytes["gradients"] == pytest.approx(
        2 / 3 * (made.sent_bytes["gradients"] + made.sent_bytes["weights"])
    )
    assert less.images_per_s > made.images_per_s
    offloaded = config(zero={"stage": 2, "offload_optimizer": True})
    assert "zero.stage=0" not in dict(changes(predict(plan(offloaded, **slow))))


def test_a_network_card_is_shared_by_the_ranks_of_a_node() -> None:
    made = plan(rates=RATES.model_copy(update={"latency_s": 0.0}))
    nic, link = 0.8 * made.cluster.nic_gb_s * 1e9, 0.8 * made.cluster.link_gb_s * 1e9
    ring = Collective("x", "all_reduce", 1e9, 1)
    assert collective_seconds(ring, made) == pytest.approx(2e9 * 15 / 16 / min(nic, link))
    everyone = Collective("x", "all_to_all", 1e9, 1)
    # Eight ranks send half of theirs to the other node.
    assert collective_seconds(everyone, made) == pytest.approx(max(8 * 0.5e9 / nic, 15 / 16 * 1e9 / link))


def test_every_formula_shows_its_numbers_and_its_value() -> None:
    for formula in predict(plan()).formulas:
        line = formula.line()
        assert all(f"{name} = " in line for name in formula.numbers)
        names = {**formula.numbers, "min": min, "max": max}
        assert eval(formula.rule, {}, names) == pytest.approx(formula.value)  # noqa: S307


def test_a_batch_without_equal_shares_names_the_next_that_has_them() -> None:
    with pytest.raises(ConfigError, match=r"60 is not a multiple of 16 ranks .* set batch_size=64"):
        predict(plan(config(batch_size=60)))


def test_every_stage_and_offloading_is_listed() -> None:
    rows = by_stage(plan())
    assert [(row["stage"], row["offload_optimizer"]) for row in rows] == [
        (0, False), (1, False), (1, True), (2, False), (2, True), (3, False), (3, True),
    ]  # fmt: skip
    assert all(row["fits"] for row in rows)
