"""What a tracking service can be told; its calls may wait for a network, and may fail."""

from typing import Any, Literal, Protocol

# stopped: by a signal, to go on later.
Outcome = Literal["finished", "stopped", "failed"]


class Service(Protocol):
    """One run at one service. All calls come from one thread, `begin` first and `end` last."""

    def begin(self, run_id: str | None, name: str, settings: dict[str, Any]) -> str:
        """Makes the run at the service, or goes on with the one of this id.

        Args:
            run_id: what an earlier session's `begin` gave; None: the first session.
            name: the run folder's.
            settings: the run's, as RunConfig.model_dump gives them.

        Returns:
            the id by which a later session goes on.
        """
        ...

    def metrics(self, figures: dict[str, float]) -> None:
        """Finite numbers by name; "step" is always among them."""
        ...

    def end(self, outcome: Outcome) -> None: ...
