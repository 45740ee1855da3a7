"""The task `crops`: what is trained, what it will cost, and the scores that it gives."""

from collections.abc import Callable, Sequence
from typing import Any

from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.engine.evaluation.contenders import Contender, Evidence
from viewmill.engine.evaluation.crops.protocol import PROTOCOLS, CropOptions
from viewmill.engine.evaluation.crops.training import Crops, epochs_done, trained_heads
from viewmill.engine.evaluation.feature_cache import TensorCache
from viewmill.engine.evaluation.linear_probe import HELD_OUT_EVERY
from viewmill.engine.evaluation.rate_grid import accuracy_of
from viewmill.engine.evaluation.rate_heads import RateHeads
from viewmill.engine.evaluation.scores import Score, score, top_classes
from viewmill.engine.evaluation.tasks import CROPS, Outcome
from viewmill.engine.evaluation.untrained import estimate_batchnorm
from viewmill.engine.passes.reading import Reading, together
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset

Say = Callable[[str], None]


def crops_of(
    name: str,
    options: CropOptions,
    train: Dataset,
    classes: Sequence[int] | None,
    found: BackboneSource,
    size: int,
    reading: Reading,
    cache: TensorCache,
    say: Say,
) -> Crops:
    """What the classifiers of the protocol `name` learn from.

    Args:
        classes: numbers of those that are compared, which become 0, 1, ...; None: all.
        size: side of the crops, pixels.

    Raises:
        ValueError: several rates, and no class has the five images that choosing one takes.
    """
    protocol = PROTOCOLS[name].changed(options)
    chosen = range(len(train.classes)) if classes is None else classes
    views = protocol.views(size, found.mean, found.std)
    heard = say if reading.world.rank == 0 else _unheard
    crops = Crops(train, chosen, protocol, views, reading, cache, heard)
    if protocol.chooses and not crops.held_out.any():
        raise ValueError(
            f"{CROPS}@{name} chooses among its rates by every {HELD_OUT_EVERY}th training image of a class, "
            f"and no class has {HELD_OUT_EVERY} of the {len(crops.members)}; convert more images, or give "
            f"one rate: --crops-rates {protocol.published_rate:g}"
        )
    return crops


def rivals(contenders: Sequence[Contender], options: CropOptions) -> list[Contender]:
    """The trained backbone and as many untrained ones as are asked for."""
    return [one for one in contenders if one.seed is None or one.seed < options.untrained]


def tell_cost(crops: Crops, contenders: Sequence[Contender]) -> None:
    """Says how many forwards are to come, before the first of them. Every rank calls it."""
    protocol, images = crops.protocol, len(crops.members)
    left = sum(protocol.epochs - epochs_done(contender, crops) for contender in contenders)
    names = ", ".join(contender.name for contender in contenders)
    forwards, size = protocol.epochs * images * len(contenders), crops.views.sizes[0]
    crops.say(
        f"{CROPS}@{protocol.name}: epochs {protocol.epochs} x images {images:,} x backbones "
        f"{len(contenders)} ({names}) = {forwards:,} forwards of {size} pixels; {left * images:,} of them to "
        "do, kept after every epoch"
    )


def crops_outcome(
    crops: Crops, contenders: Sequence[Contender], evidence: Evidence, statistics_views: ViewSpec
) -> Outcome:
    """Trains the classifiers of every contender, and scores those of the best rate on the test images.

    The rate is that whose second classifier, which saw no held-out image, is best on the eval views of these;
    equal ones give the smaller rate. Scored is its first one, which learnt from all.

    Args:
        evidence: representations of the eval views.
        statistics_views: of the images that give the untrained backbones their BatchNorm statistics.

    Raises:
        As `trained_heads`.
    """
    _settle(crops, contenders, statistics_views)
    scores: dict[str, Score] = {}
    notes: dict[str, dict[str, Any]] = {}
    for contender in contenders:
        heads = trained_heads(contender, crops)
        name = contender.name
        scores[name], notes[name] = _scored(heads, crops, evidence, name)
    protocol = crops.protocol
    settings = {
        "crops": crops.views.name,
        "forwards_a_backbone": protocol.epochs * len(crops.members),
        **protocol.model_dump(mode="json", exclude={"name"}),
    }
    return Outcome(f"{CROPS}@{protocol.name}", protocol.id, settings, scores, notes)


def _settle(crops: Crops, contenders: Sequence[Contender], views: ViewSpec) -> None:
    """BatchNorm statistics of the untrained: where their features were cached, none were estimated."""
    epochs = crops.protocol.epochs
    newborn = [
        one.backbone for one in contenders if one.seed is not None and epochs_done(one, crops) < epochs
    ]
    together(crops.reading.world, lambda: estimate_batchnorm(newborn, crops.dataset, views, crops.reading))


def _scored(heads: RateHeads, crops: Crops, evidence: Evidence, name: str) -> tuple[Score, dict[str, Any]]:
    """Of the chosen rate on the test images; how it was chosen, and the published rate beside it."""
    rates, notes = crops.protocol.rates, dict[str, Any]()
    best = 0
    if crops.protocol.chooses:
        rows = crops.held_out[crops.members]
        features, labels = evidence.bank[name][rows], evidence.bank_labels[rows]
        found = [
            accuracy_of(heads.probe(len(rates) + place), features, labels) for place in range(len(rates))
        ]
        best = max(range(len(rates)), key=lambda place: (found[place], -rates[place]))
        by_rate = {f"{rate:g}": accuracy for rate, accuracy in zip(rates, found, strict=True)}
        notes |= {"held_out": int(rows.sum()), "held_out_top1": by_rate}
    notes["rate"] = rates[best]

    def tested(place: int) -> Score:
        ranked = top_classes(heads.probe(place).logits(evidence.queries[name]))
        return score(ranked, evidence.query_labels, evidence.num_classes)

    if crops.protocol.published_rate in rates:
        published = tested(rates.index(crops.protocol.published_rate))
        notes["published_rate"] = {
            "rate": crops.protocol.published_rate,
            "top1": published.top1,
            "top5": published.top5,
        }
    return tested(best), notes


def _unheard(line: str) -> None:
    pass
