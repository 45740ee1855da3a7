"""What an evaluation leaves: evaluation/summary.json, a line a task, and the details of each beside it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor
from viewmill.engine.evaluation.contenders import TRAINED
from viewmill.engine.evaluation.measured import Measured
from viewmill.engine.evaluation.scores import Score, compare
from viewmill.engine.evaluation.tasks import DIAGNOSIS, Outcome
from viewmill.shards.durable import written_whole

SUMMARY_FILE, TENSORS_FILE = "summary.json", f"{DIAGNOSIS}.safetensors"

Groups = Mapping[str, Sequence[Outcome | Measured]]  # by the file that holds their details


def entry_of(outcome: Outcome | Measured, floors: dict[str, float]) -> dict[str, Any]:
    """The line of a task in summary.json."""
    return measured_entry(outcome) if isinstance(outcome, Measured) else scored_entry(outcome, floors)


def scored_entry(outcome: Outcome, floors: dict[str, float]) -> dict[str, Any]:
    """Of a task with accuracies."""
    trained, (_, rival) = outcome.scores[TRAINED], best_untrained(outcome)
    against = {} if rival is None else compare(trained, rival)
    return {
        "task": outcome.task,
        "n": len(trained.correct),
        "trained": trained.top1,
        "untrained": None if rival is None else rival.top1,
        "floors": floors,
        "standard_error": against.get("standard_error"),
        "z_score": against.get("z_score"),
        "trained_top5": trained.top5,
        "untrained_top5": None if rival is None else rival.top5,
    }


def measured_entry(outcome: Measured) -> dict[str, Any]:
    """Of a task with figures: the same fields, without an accuracy, and the figures under `measures`."""
    empty = ("trained", "untrained", "standard_error", "z_score", "trained_top5", "untrained_top5")
    return {
        "task": outcome.task,
        "n": outcome.images,
        "floors": {},
        **dict.fromkeys(empty),
        "measures": {
            name: {"trained": value, "untrained": outcome.untrained(name)}
            for name, value in outcome.figures[TRAINED].items()
        },
    }


def best_untrained(outcome: Outcome) -> tuple[str, Score] | tuple[None, None]:
    """The untrained contender with the highest top-1; of equal ones the first seed's; None: there is none."""
    rivals = [(name, score) for name, score in outcome.scores.items() if name != TRAINED]
    return max(rivals, key=lambda rival: rival[1].top1) if rivals else (None, None)


def details_of(outcome: Outcome | Measured) -> dict[str, Any]:
    """All that was measured in a task."""
    return measured_details(outcome) if isinstance(outcome, Measured) else scored_details(outcome)


def scored_details(outcome: Outcome) -> dict[str, Any]:
    """Of a task with accuracies."""
    name, rival = best_untrained(outcome)
    return {
        "task": outcome.task,
        "protocol": outcome.protocol,
        **outcome.settings,
        "best_untrained": name,
        "trained_minus_untrained": None if rival is None else compare(outcome.scores[TRAINED], rival),
        "contenders": {
            name: {
                "top1": score.top1,
                "top5": score.top5,
                **outcome.notes[name],
                "per_class_top1": score.per_class,
            }
            for name, score in outcome.scores.items()
        },
    }


def measured_details(outcome: Measured) -> dict[str, Any]:
    """Of a task with figures."""
    return {
        "task": outcome.task,
        "protocol": outcome.protocol,
        **outcome.settings,
        "images": outcome.images,
        "untrained_is": outcome.untrained_is,
        "contenders": outcome.figures,
        **outcome.notes,
    }


def write_evaluation(
    folder: Path,
    entries: list[dict[str, Any]],
    groups: Groups,
    about: dict[str, Any],
    tensors: dict[str, Tensor],
) -> None:
    """Details first, summary last; details of tasks that were not run go, as their lines in the summary.

    Args:
        tensors: behind a diagnosis; none where there was none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for group, outcomes in groups.items():
        path = folder / f"{group}.json"
        if outcomes:
            _write_json(path, {**about, "tasks": [details_of(outcome) for outcome in outcomes]})
        else:
            path.unlink(missing_ok=True)
    behind = folder / TENSORS_FILE
    if tensors:
        with written_whole(behind) as file:
            file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    else:
        behind.unlink(missing_ok=True)
    _write_json(folder / SUMMARY_FILE, entries)


def _write_json(path: Path, tree: Any) -> None:
    """The file is complete under its name, or as it was."""
    aside = path.with_name(f"{path.name}.partial")
    aside.write_text(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(path)
