"""Scaling curves: points where the run can be, and why it cannot be elsewhere."""

from viewmill.tools.planning.images import Images
from viewmill.tools.planning.report import left_out_tables, scaling_rows
from viewmill.tools.planning.scaling import strong, weak

from tests.tools.planning.plans import plan


def test_what_has_no_point_has_its_own_reason() -> None:
    few = plan(images=Images(count=200, mean_bytes=1e5, mean_pixels=1e5))  # 64 of them a batch, 4 a rank
    curves = {"strong": strong(few, (1, 4, 16)), "weak": weak(few, (1, 4, 16))}
    assert [point.nodes for point in curves["strong"].points] == [1, 4]
    assert curves["strong"].left_out[16].startswith("batch_size=64 is not a multiple of 128 ranks")
    assert [point.nodes for point in curves["weak"].points] == [1, 4]
    assert curves["weak"].left_out == {16: "batch_size=512 is larger than the 200 images"}
    rows = {row[0]: row[1:] for row in scaling_rows(curves)}
    assert set(rows) == {"1", "4", "16"}
    assert rows["16"][0] == rows["16"][3] == "see below"
    [(_, headings, below)] = left_out_tables(curves)
    assert headings == ("curve", "nodes", "why")
    assert ("weak", "16", "batch_size=512 is larger than the 200 images") in below
    assert len(below) == 2


def test_a_run_that_is_nowhere_still_says_why() -> None:
    few = plan(images=Images(count=2, mean_bytes=1e5, mean_pixels=1e5))
    curves = {"strong": strong(few, (1,)), "weak": weak(few, (1,))}
    assert not curves["strong"].points
    assert [row[0] for row in scaling_rows(curves)] == ["1"]
    [(_, _, below)] = left_out_tables(curves)
    assert below[0] == ("strong", "1", "batch_size=64 is larger than the 2 images")


def test_a_run_that_is_everywhere_has_nothing_left_out() -> None:
    assert left_out_tables({"strong": strong(plan(), (1, 2))}) == []
