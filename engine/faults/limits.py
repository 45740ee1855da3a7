"""After how long a rank that does not go on is taken for lost."""

from pydantic import Field, model_validator
from viewmill.engine.faults.pulse import Phase, Place
from viewmill.engine.strict import StrictModel


class FaultsConfig(StrictModel):
    """Seconds. Too small a limit ends healthy runs, so they are many times what an honest run takes."""

    heartbeat_s: float = Field(default=5.0, gt=0)  # how often a rank writes RUN/heartbeats/rank-N.json
    silent_s: float = Field(default=45.0, gt=0)  # without a heartbeat, while another rank waits as long
    hang_s: float = Field(default=300.0, gt=0)  # in one phase of a step: data-wait, collective, computing
    # In what is no part of a step, and the first step's computing, which may compile: start, checkpoint,
    # and a batch of an evaluation or pass.
    long_s: float = Field(default=3600.0, gt=0)

    @model_validator(mode="after")
    def a_late_heartbeat_is_no_silence(self) -> "FaultsConfig":
        if self.silent_s < 3 * self.heartbeat_s:
            raise ValueError(
                f"silent_s {self.silent_s:g} is below three heartbeats of {self.heartbeat_s:g} s; "
                "raise faults.silent_s or lower faults.heartbeat_s"
            )
        return self

    def of(self, place: Place) -> float:
        """Seconds that a rank may be in this place."""
        if place.phase is Phase.END:
            return float("inf")
        if place.phase is Phase.DATA or (place.phase is Phase.COMPUTE and not place.is_first_step):
            return self.hang_s
        if place.phase is Phase.MEETING:
            # The one that is waited for comes to its own limit first, and knows more.
            return self.hang_s + self.silent_s
        return self.long_s
