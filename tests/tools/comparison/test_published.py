"""The papers' tables: each number has a described protocol, and agrees with the catalogue of recipes."""

from pathlib import Path

import pytest
from viewmill.engine.catalogue import catalogue
from viewmill.tools.comparison.published import (
    Published,
    data_named,
    paper_sets,
    papers,
    protocols_described,
    published,
    read_paper,
)

# The names of the catalogue's data sets, where it has a row of the same table.
DATA = {
    "STL10": "STL-10",
    "CIFAR10": "CIFAR-10",
    "CIFAR100": "CIFAR-100",
    "FOOD101": "Food-101",
    "IMAGENET": "ImageNet-1k",
    "IMAGENET100": "ImageNet-100",
    "LC25000": "LC-25000",
}
SHARES = ("top1", "top5", "mean_iou", "precision", "pixel_accuracy", "ap", "ap50", "ap75")
MEASURES = {"knn20_top1": "knn@20.top1", "knn200_top1": "knn@200.top1"}


def rows() -> list[Published]:
    return published(list(paper_sets()))


def test_all_tables_are_there_with_every_number_in_its_range() -> None:
    found = rows()
    tables = {(one.paper, one.table) for one in found}
    assert tables >= {("hydes", f"Table {number}") for number in ("I", "II", "III", "IV")}
    assert tables >= {
        ("imsvd", f"Table {number}") for number in ("I", "II", "III", "V", "VI", "VII", "VIII", "IX")
    }
    assert len(found) == sum(len(table.rows) for paper in papers().values() for table in paper.tables)
    for one in found:
        for key, figure in one.subject.figures.items():
            assert figure.conditions.protocol in protocols_described()
            if key.endswith(
                ("top1", "top5", "mean_iou", "precision", "pixel_accuracy", "ap", "ap50", "ap75")
            ):
                assert 0 < figure.value <= 1, (one.subject.name, key)


def test_a_top5_accuracy_is_at_least_the_top1() -> None:
    for one in rows():
        for key, figure in one.subject.figures.items():
            best = one.subject.figures.get(key.replace("top1", "top5"), figure)
            assert best.value >= figure.value, (one.subject.name, key)


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_rows_of_the_recipes_have_the_same_numbers(name: str) -> None:
    row = catalogue()[name]
    data = DATA.get(row.evaluate or row.data)
    place = row.row.partition(", ")[2] if row.paper.startswith("hydes") else row.row
    names = (place, row.row, f"IMSVD, {row.row}")  # its ablations' recipes do not repeat whose they are
    mine = [
        one
        for one in rows()
        if (one.paper, one.table, one.data) == (row.paper, row.table, data) and one.row in names
    ]
    if not mine:
        mine = [one for one in rows() if row.table == one.table == "Table II" and one.row == "IMSVD"]
    for measure, value in row.results.items() if mine else ():
        key = MEASURES.get(measure, measure.replace("_", "."))
        assert mine[0].subject.figures[key].value == pytest.approx(value / 100), measure


def test_enough_rows_are_in_both() -> None:
    """So that the test above compares something."""
    ablations = {("imsvd", f"Table {number}") for number in ("V", "VI", "VII", "VIII", "IX")}
    both = {("hydes", "Table I"), ("imsvd", "Table I"), ("imsvd", "Table II"), *ablations}
    assert both <= {(row.paper, row.table) for row in catalogue().values()}
    for row in catalogue().values():
        if (row.paper, row.table) in ablations:
            name = f"IMSVD, {row.row}"
            assert any((one.table, one.row) == (row.table, name) for one in rows()), row.row
    found = {(one.paper, one.row, one.data) for one in rows()}
    assert ("hydes", "HyDeS, RN50", "ImageNet-1k") in found
    assert ("imsvd", "IMSVD, 100 epochs", "ImageNet-1k") in found


def ablation(table: str) -> dict[str, list[float]]:
    """Numbers of one of IMSVD's tables on ImageNet-1k by the row, in percent: top-1, and top-5 if printed."""
    return {
        one.row: [round(100 * figure.value, 1) for figure in one.subject.figures.values()]
        for one in rows()
        if (one.paper, one.table, one.data) == ("imsvd", table, "ImageNet-1k")
    }


@pytest.mark.parametrize(
    ("table", "best"),
    [
        ("Table V", "IMSVD, batch size 2048"),
        ("Table VI", "IMSVD, depth 2"),
        ("Table VII", "IMSVD, D = 8160"),
        ("Table VIII", "IMSVD, DE+OE+TI"),
        ("Table IX", "IMSVD, D_M = 80"),
    ],
)
def test_the_best_row_of_every_ablation_is_the_run_of_table_one(table: str, best: str) -> None:
    """The paper varies one setting of a run at a time, so its tables share that run, and it is the best."""
    found = ablation(table)
    top1 = [values[0] for values in found.values()]
    assert [name for name, values in found.items() if values[0] == max(top1)] == [best]
    assert found[best] in ([69.4], [69.4, 89.3])
    assert ablation("Table I")["IMSVD, 100 epochs"] == [69.4]


def test_what_the_paper_says_of_its_ablations_holds_of_the_numbers() -> None:
    """Section V-B: IMSVD is above VICReg at every batch size and dimension, 65.4 % with the entropy alone."""
    batches, dims = ablation("Table V"), ablation("Table VII")
    for size in (512, 1024, 2048, 4096):
        assert batches[f"IMSVD, batch size {size}"] > batches[f"VICReg, batch size {size}"]
    pairs = ((960, 1024), (2000, 2048), (4080, 4096), (8160, 8192), (16320, 16384))
    for own, vicreg in pairs:
        assert dims[f"IMSVD, D = {own}"] > dims[f"VICReg, D = {vicreg}"]
    for own in (4080, 8160):
        assert dims[f"IMSVD, D = {own}"] > dims["VICReg, D = 16384"]
    assert ablation("Table VIII")["IMSVD, DE+OE"][0] == 65.4


def test_average_precisions_are_in_their_order() -> None:
    """AP is the mean over overlaps of 0.5 to 0.95: below AP50, and here below AP75; masks below boxes."""
    coco = [one.subject.figures for one in rows() if one.data == "COCO 2017"]
    assert len(coco) == 6
    for figures in coco:
        for task in ("detection", "instances"):
            whole, half, most = (figures[f"{task}.{name}"].value for name in ("ap", "ap50", "ap75"))
            assert whole < most < half
        assert figures["instances.ap"].value < figures["detection.ap"].value


def test_a_data_set_is_known_by_classes_and_images() -> None:
    assert data_named({(10, 8000), (7, 5)}) == ["STL-10"]
    assert data_named({(10, 1500)}) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows: {a: [1, 2]}", "row 'a' has 2 numbers for 1 columns"),
        ("rows: {a: [1]}\n    protocol: {knn: p}", "column 'linear.top1' has no protocol"),
        ("rows: {a: [1]}\n    protocol: {linear: other}", "protocol 'other' is not described"),
        ("rows: {a: [1]}\n    unit: parts", "unit"),
        ("rows: {a: [1]}\n    more: 1", "more"),
    ],
)
def test_a_wrong_table_is_named_with_its_place(text: str, words: str, tmp_path: Path) -> None:
    base = {"protocol": "{linear: p}", "unit": "percent"}
    lines = [f"    {key}: {value}" for key, value in base.items() if f"    {key}:" not in text]
    path = tmp_path / "paper.yaml"
    path.write_text(
        "title: T\nshort: T\nprotocols: {p: known}\ntables:\n  - table: I\n    data: D\n"
        "    columns: [linear.top1]\n    " + text + "\n" + "\n".join(lines) + "\n"
    )
    with pytest.raises(ValueError, match="paper") as caught:
        read_paper(path)
    assert words in str(caught.value)
