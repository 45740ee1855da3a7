"""`bench order` measures every kind of order, the ranks and the localities."""

from viewmill.tools.bench import order


def test_every_kind_is_measured_at_a_far_position() -> None:
    for kind in ("samples", "mixture with 1e6 samples, 3:1"):
        found = order.measure(kind)
        assert 0 < found["construct_ms"] <= found["first_batch_ms"]
        assert found["allocated_kib"] < 10 * 1024  # DESIGN's bound; no clock is asked here
        assert found["resident_mib"] < order.ORDER["resident_mib"]


def test_a_thousand_ranks_give_the_batch_of_one() -> None:
    assert order.measure_ranks()["equal"]


def test_a_locality_is_measured_on_both_sources() -> None:
    shuffled, class_sorted = (
        order.measure_quality(40_000, 64, 2048, is_sorted) for is_sorted in (False, True)
    )
    assert shuffled["entropy_share"] > 0.99 > class_sorted["entropy_share"]
    assert shuffled["reads_per_batch"] == class_sorted["reads_per_batch"] <= 16
    assert shuffled["mib_per_read"] > 6


def test_the_table_names_what_was_found() -> None:
    figures = {"construct_ms": 1.0, "first_batch_ms": 2.0, "later_batch_ms": 1.0}
    figures |= {"allocated_kib": 9.0, "resident_mib": 0.0}
    result = {
        "samples": 10**9,
        "batch": 1024,
        "kinds": {"samples": figures},
        "ranks": {"ranks": 1024, "equal": False, "share_ms": 1.0},
        "quality": [order.measure_quality(20_000, 1, 0, False)],
    }
    kinds, quality = order.table_of_kinds(result), order.table_of_quality(result["quality"])
    assert "1024 ranks: DIFFERENT batches" in [str(cell) for cell in kinds.columns[0].cells]
    assert [str(cell) for cell in quality.columns[0].cells] == ["shuffled, 1 / 0"]
    assert order.table(result).row_count == 2
