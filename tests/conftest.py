"""How the tests are shared out over the workers of `pytest -n 2`, and what commands leave undone in them."""

from collections.abc import Iterator
from typing import Any

import pytest
from viewmill.engine import heap

# Files that share what is made once a session: on two workers it would be made twice.
TOGETHER = {
    "tests/engine/test_fragments.py": "two ranks of the engine",
    "tests/engine/test_zero.py": "two ranks of the engine",
    "tests/engine/checkpoints/test_checkpoint.py": "two ranks of the engine",
}
# Files that take half a minute and more, longest first: the last to begin would run alone, while the other
# workers have nothing left.
LONG = (
    "test_training_is_the_same_everywhere.py",
    "test_launchers.py",
    "test_every_method_trains_the_same.py",
    "test_accumulation.py",
    "test_train.py",
    "test_checkpoint.py",
    "test_train_methods.py",
    "test_diagnosis.py",
    "test_slow_stages.py",
    "test_run_pass.py",
    "test_bench_methods.py",
    "test_ranks_stop_together.py",
    "test_bench_loss_imsvd.py",
    "test_bench_loss_hydes.py",
    "test_loader_ends.py",
)


@pytest.fixture(autouse=True, scope="session")
def memory_is_given_back() -> Iterator[None]:
    """`viewmill train` has its process keep what it frees; the tests' own process measures memory too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heap, "keep_freed_memory", lambda: False)
        yield


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's: without it all tests run in this process
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files, so that what a module launches or trains is made once; `--dist` other than load wins."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class WholeFiles(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return TOGETHER.get(path, path)

    config.option.loadscopereorder = False  # not by the number of tests, which says nothing of their length
    return WholeFiles(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On workers the long files come first."""
    if hasattr(config, "workerinput"):
        places = {name: place for place, name in enumerate(LONG)}
        items.sort(key=lambda item: places.get(item.path.name, len(LONG)))
