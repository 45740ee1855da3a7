"""After how long a rank that does not go on is taken for lost."""

from pydantic import Field, model_validator
from viewmill.engine.faults.pulse import Phase, Place
from viewmill.engine.strict import StrictModel

# What has gone well ten times as fast is no hang yet: a step of a large batch on a CPU takes many minutes.
PATIENCE = 10


class FaultsConfig(StrictModel):
    """Seconds. Too small a limit ends healthy runs: each is the larger one of what is written here and of
    `PATIENCE` times the longest that such a phase has taken in this session."""

    heartbeat_s: float = Field(default=5.0, gt=0)  # how often a rank writes RUN/heartbeats/rank-N.json
    silent_s: float = Field(default=45.0, gt=0)  # without a heartbeat, while another rank waits as long
    hang_s: float = Field(default=300.0, gt=0)  # in one phase of a step: data-wait, collective, computing
    # In what is no part of a step, and the first step's computing, which may compile: start, checkpoint, a
    # batch of a pass. Four times as long in an evaluation, which fits a probe without a sign of life.
    long_s: float = Field(default=3600.0, gt=0)

    @model_validator(mode="after")
    def a_late_heartbeat_is_no_silence(self) -> "FaultsConfig":
        if self.silent_s < 3 * self.heartbeat_s:
            raise ValueError(
                f"silent_s {self.silent_s:g} is below three heartbeats of {self.heartbeat_s:g} s; "
                "raise faults.silent_s or lower faults.heartbeat_s"
            )
        return self

    def of(self, place: Place, longest_s: float = 0.0) -> float:
        """Seconds that a rank may be in this place.

        Args:
            longest_s: that such a phase has taken in this session.
        """
        return max(self._written(place), PATIENCE * longest_s)

    def _written(self, place: Place) -> float:
        if place.phase is Phase.END:
            return float("inf")
        if place.phase is Phase.EVALUATION:
            return 4 * self.long_s
        if place.phase is Phase.DATA or (place.phase is Phase.COMPUTE and not place.is_first_step):
            return self.hang_s
        if place.phase is Phase.MEETING:
            # The one that is waited for comes to its own limit first, and knows more.
            return self.hang_s + self.silent_s
        return self.long_s
