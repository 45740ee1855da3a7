"""A data set as one HTML page: images, planned views, plots and tables; it needs no network."""

import base64
import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from viewmill.tools.html_page import environment, figure, plotly_script, script_json, shown
from viewmill.tools.inspection.charts import Bars, Chart, Lines, left_out

if TYPE_CHECKING:
    from PIL.Image import Image
    from viewmill.pipelines.views import ViewSpec
    from viewmill.shards.manifest import Dataset
    from viewmill.shards.survey import DuplicateGroup, Survey

TEMPLATE = "inspection/page.html.j2"
GALLERY_IMAGES = 48
GALLERY_SIDE = 128  # pixels
MAX_CLASSES, MAX_GROUPS, MAX_REFUSALS = 500, 50, 200
MAX_JPEG_SIDE = 65_500
SECTIONS = {
    "sizes": "Sizes",
    "files": "Bytes and formats",
    "classes": "Classes",
    "shards": "Shards",
    "duplicates": "Duplicates",
    "quarantine": "Quarantine",
}


def render(
    dataset: "Dataset",
    found: "Survey",
    charts: list[Chart],
    spec: "ViewSpec",
    *,
    images: int,
    seed: int,
    command: str,
) -> str:
    """The page. What comes from file names is escaped; nothing in it grows with the number of samples.

    Args:
        images: rows of the planned views. seed: of the views. command: what made the page, for its captions.

    Raises:
        ValueError: so many views so large that they are no picture.
        ShardError: damaged bytes; the message names the file.
    """
    from viewmill.shards.survey import duplicate_groups, quarantined_inputs

    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            name=shown(dataset.path.absolute().name),
            dataset=dataset,
            found=found,
            command=command,
            gallery=gallery(dataset),
            views=views_picture(dataset, spec, images, seed),
            num_views=spec.num_views,
            rows_of_views=min(images, dataset.num_samples),
            seed=seed,
            sections=SECTIONS,
            left_out=left_out(charts),
            charts=script_json([tree_of(chart) for chart in charts]),
            spreads=spread_rows(found),
            classes=class_rows(found),
            groups=[group_row(dataset, group) for group in duplicate_groups(dataset, MAX_GROUPS)],
            refusals=quarantined_inputs(dataset.path, MAX_REFUSALS),
            options={name: shown(str(value)) for name, value in dataset.info.options.items()},
            shown=shown,
            plotly=plotly_script(),
        )
    )


def gallery(dataset: "Dataset") -> list[dict[str, str]]:
    """Images spread evenly over the data set: key, class and the picture as a data URI."""
    from viewmill.shards.errors import ImageError
    from viewmill.shards.images import decode_rgb
    from viewmill.tools.contact_sheet import fitted, message_picture, spread_ids

    ids = spread_ids(dataset.num_samples, GALLERY_IMAGES)
    found = []
    for sample, key, label in zip(ids, dataset.keys(ids), dataset.labels(ids).tolist(), strict=True):
        try:
            picture = fitted(decode_rgb(dataset.read([sample])[0]), GALLERY_SIDE)
        except ImageError as error:
            picture = message_picture(str(error), GALLERY_SIDE)
        name = class_name(dataset, label)
        found.append({"key": shown(key), "class": name, "uri": data_uri(picture)})
    return found


def views_picture(dataset: "Dataset", spec: "ViewSpec", images: int, seed: int) -> str:
    """The contact sheet as a data URI."""
    from viewmill.tools.contact_sheet import contact_sheet, spread_ids

    sheet = contact_sheet(dataset, spread_ids(dataset.num_samples, images), spec, seed=seed)
    if max(sheet.size) > MAX_JPEG_SIDE:
        raise ValueError(
            f"--images {images}: their views make a picture of {sheet.size[0]} x {sheet.size[1]} pixels, "
            f"a page takes {MAX_JPEG_SIDE} at most; give fewer images or a smaller --preset"
        )
    return data_uri(sheet)


def data_uri(picture: "Image") -> str:
    """The picture as a JPEG inside an address: a page of PNGs would weigh five times as much."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def tree_of(chart: Chart) -> dict[str, Any]:
    """A chart as JSON for the script of the page; names are made harmless for plotly."""
    drawing = asdict(chart.drawing)
    if isinstance(chart.drawing, Bars):
        drawing["names"] = [plotly_text(name) for name in chart.drawing.names]
    if isinstance(chart.drawing, Lines):
        drawing["curves"] = [
            {"name": name, "values": values} for name, values in chart.drawing.curves.items()
        ]
    kind = type(chart.drawing).__name__.lower()
    texts = {"section": chart.section, "title": chart.title, "note": chart.note, "x": chart.x, "y": chart.y}
    return {**texts, "kind": kind, "drawing": drawing}


def plotly_text(text: str) -> str:
    """plotly.js takes <b>, <a> and entities in a label as markup: a class may be named so."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def spread_rows(found: "Survey") -> list[tuple[str, list[str]]]:
    """Quartiles of each quantity as text."""
    quantities = {
        "width, pixels": found.width,
        "height, pixels": found.height,
        "pixels": found.pixels,
        "1000 × width / height": found.aspect,
        "bytes of an image": found.bytes,
        "bytes of a shard": found.shard_bytes,
        "samples of a shard": found.shard_samples,
    }
    return [
        (name, [figure(round(value)) for value in asdict(spread).values()])
        for name, spread in quantities.items()
    ]


def class_rows(found: "Survey") -> list[tuple[str, int]]:
    """The largest classes and their samples."""
    ordered = sorted(found.per_class.items(), key=lambda item: -item[1])[:MAX_CLASSES]
    return [("(no class)" if name is None else shown(name), count) for name, count in ordered]


def class_name(dataset: "Dataset", label: int) -> str:
    """The class of a label as text."""
    return shown(dataset.classes[label]) if label >= 0 else "(no class)"


def group_row(dataset: "Dataset", group: "DuplicateGroup") -> dict[str, Any]:
    """A group of equal images as text: how many, keys with their classes, how many keys are not shown."""
    members = [
        (shown(key), class_name(dataset, label)) for key, label in zip(group.keys, group.labels, strict=True)
    ]
    more = group.count - len(members)
    return {"count": group.count, "members": members, "more": more, "conflicting": group.conflicting}
