"""Which services are told of a run's figures. Keys to them come from their own variables, never from here."""

from pydantic import Field
from viewmill.engine.strict import StrictModel


class WandbConfig(StrictModel):
    """A run at Weights & Biases."""

    project: str = Field(min_length=1)
    entity: str | None = None  # a team's or user's name; None: the user's default
    name: str | None = None  # of the run; None: the run folder's


class MlflowConfig(StrictModel):
    """A run at an MLflow server, or in a store of files."""

    experiment: str = Field(min_length=1)  # made where there is none of this name
    tracking_uri: str | None = None  # None: as MLFLOW_TRACKING_URI says, or MLflow's own default
    name: str | None = None  # of the run; None: the run folder's
