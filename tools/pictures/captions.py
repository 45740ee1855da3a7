"""What a caption says beside what is seen: data, checkpoint, views and command."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from viewmill.tools.html_page import shown

if TYPE_CHECKING:
    from viewmill.engine.evaluation.pictures.scene import Scene
    from viewmill.shards.manifest import Dataset


@dataclass(frozen=True)
class Captions:
    """Captions of the pictures of one checkpoint."""

    checkpoint: str  # what was looked at, and the hash of its weights
    command: str

    @classmethod
    def of_scene(cls, scene: "Scene", command: str) -> "Captions":
        """The captions of a scene's pictures."""
        run = "" if scene.source.folder is None else f"{shown(scene.source.folder.absolute().name)}, "
        about = scene.source.about["backbone"]
        name, weights = shown(scene.source.name), scene.weights[:12]
        return cls(f"{run}{name} ({about}, weights {weights}), views {scene.views.name}", command)

    def data(self, dataset: "Dataset") -> str:
        """Name and hash of a data set."""
        return f"{shown(dataset.path.absolute().name)} (hash {dataset.data_set_hash[:12]})"

    def of(self, what: str) -> str:
        """The whole caption."""
        return f"{what.strip()} {self.checkpoint}. {self.command}"
