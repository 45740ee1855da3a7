"""The settings of each method. `method.name` says which one it is; a recipe without it means HyDeS."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Tag, field_validator, model_validator
from viewmill.engine.scheduled import PositiveScheduled, Ramp, Scheduled, ShareScheduled, WeightScheduled
from viewmill.engine.strict import StrictModel, chosen_by


class ProjectorConfig(StrictModel):
    """The head between representation and embedding."""

    layers: int = Field(default=3, ge=1)
    hidden: int = Field(default=2048, ge=1)
    dim: int = Field(default=256, ge=2)  # D, the embedding's width


class HydesConfig(StrictModel):
    """HyDeS: kappa is the kernel's concentration, I = alpha H_global - beta H_local."""

    name: Literal["hydes"] = "hydes"
    kappa: PositiveScheduled = 1.0
    alpha: WeightScheduled = 1.0
    beta: WeightScheduled = 1.0
    projector: ProjectorConfig = ProjectorConfig()

    def scheduled(self) -> dict[str, Scheduled]:
        return {"kappa": self.kappa, "alpha": self.alpha, "beta": self.beta}


class ImsvdProjectorConfig(StrictModel):
    """The projector of IMSVD; it ends in variables x units numbers."""

    layers: int = Field(default=2, ge=1)
    hidden: int = Field(default=8192, ge=1)


class ImsvdConfig(StrictModel):
    """IMSVD: TI + weight (w_DE DE + w_OE OE) over soft variables; `methods/imsvd.py` has the equations."""

    name: Literal["imsvd"] = "imsvd"
    variables: int = Field(default=102, ge=2)  # M
    units: int = Field(default=80, ge=2)  # D_M, the values of a variable
    weight: WeightScheduled = 1.0  # lambda
    temperature: PositiveScheduled = 1.0
    similarity: Literal["inner", "cross_entropy"] = "inner"
    entropy_weights: Literal["per_block", "equation"] = "per_block"
    joint: Literal["cross", "self"] = "cross"
    # Which terms are in the loss. Not strict: YAML gives a list, which a strict tuple refuses.
    terms: tuple[Literal["invariance", "diagonal", "offdiagonal"], ...] = Field(
        default=("invariance", "diagonal", "offdiagonal"), strict=False, min_length=1
    )
    projector: ImsvdProjectorConfig = ImsvdProjectorConfig()

    @field_validator("terms")
    @classmethod
    def terms_are_named_once(cls, terms: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(terms)) < len(terms):
            raise ValueError("names a term twice")
        return terms

    def scheduled(self) -> dict[str, Scheduled]:
        return {"weight": self.weight, "temperature": self.temperature}


class EmaTeacher(StrictModel):
    """The teacher's weights are a running mean of the student's."""

    kind: Literal["ema"] = "ema"
    momentum: ShareScheduled = Ramp(kind="cosine", start=0.996, end=1.0)  # what stays of it at a step


class CopyTeacher(StrictModel):
    """The teacher is the student as it was when its last period of epochs began."""

    kind: Literal["copy"] = "copy"
    every_epochs: int = Field(default=1, ge=1)


class BatchScope(StrictModel):
    """The prior or centre is that of the global batch."""

    kind: Literal["batch"] = "batch"


class EmaScope(StrictModel):
    """It is a running mean over the batches, this one included."""

    kind: Literal["ema"] = "ema"
    momentum: float = Field(default=0.9, ge=0, lt=1)  # what stays of it at a step


class StreamingScope(StrictModel):
    """It is the mean over all that the teacher said in the last window of epochs; in the first, so far."""

    kind: Literal["streaming"] = "streaming"
    every_epochs: int = Field(default=1, ge=1)


class DatasetScope(StrictModel):
    """It is taken by a pass of the teacher over every sample, before the first and every so many epochs."""

    kind: Literal["dataset"] = "dataset"
    every_epochs: int = Field(default=1, ge=1)


class RefreshConfig(StrictModel):
    """Before every so many epochs but the first, a pass of the teacher over every sample makes the clusters'
    directions anew, by one step of spherical k-means or of EM.
    """

    kind: Literal["kmeans", "em"]
    every_epochs: int = Field(default=1, ge=1)


def _named(value: Any) -> Any:
    """`scope: ema` is short for `scope: {kind: ema}`."""
    return {"kind": value} if isinstance(value, str) else value


def _named_or_none(value: Any) -> Any:
    """`refresh: none` is the word for None."""
    return None if value == "none" else _named(value)


TeacherConfig = Annotated[
    Annotated[EmaTeacher, Tag("ema")] | Annotated[CopyTeacher, Tag("copy")],
    chosen_by("kind", ("ema", "copy"), default="ema"),
    BeforeValidator(_named),
]
ScopeConfig = Annotated[
    Annotated[BatchScope, Tag("batch")]
    | Annotated[EmaScope, Tag("ema")]
    | Annotated[StreamingScope, Tag("streaming")]
    | Annotated[DatasetScope, Tag("dataset")],
    chosen_by("kind", ("batch", "ema", "streaming", "dataset"), default="batch"),
    BeforeValidator(_named),
]


class DistillConfig(StrictModel):
    """Clustering distillation: the student follows a teacher's clusters (`methods/targets.py`)."""

    name: Literal["distill"] = "distill"
    num_clusters: int = Field(default=1024, ge=2)  # K
    clusters: Literal["learned", "fixed"] = "learned"  # fixed: as drawn from the seed
    center_clusters: bool = False  # the clusters' vectors sum to zero
    refresh: Annotated[RefreshConfig | None, BeforeValidator(_named_or_none)] = None  # none, kmeans or em
    feature_norm: Literal["l2", "std", "none"] = "l2"
    projector: ProjectorConfig = ProjectorConfig()
    normalization: Literal["prior", "center", "batchnorm", "sinkhorn", "none"] = "prior"
    scope: ScopeConfig = (
        BatchScope()
    )  # what the prior, the centre or the batch norm's statistics are taken over
    prior_iterations: int = Field(default=1, ge=1)
    teacher: TeacherConfig = EmaTeacher()
    student_temperature: PositiveScheduled = 0.1  # tau_s
    teacher_temperature: PositiveScheduled = Ramp(kind="linear", start=0.04, end=0.07)  # tau_t
    kind: Literal["kl", "cross_entropy"] = "kl"
    export: Literal["student", "teacher"] = "student"  # whose backbone is exported and evaluated

    @model_validator(mode="after")
    def no_option_is_without_effect(self) -> "DistillConfig":
        if self.normalization in ("sinkhorn", "none") and self.scope.kind != "batch":
            raise ValueError(
                f"normalization={self.normalization} keeps no prior and no centre, so scope must be batch, "
                f"not {self.scope.kind}"
            )
        if self.prior_iterations > 1 and (self.normalization, self.scope.kind) != ("prior", "batch"):
            raise ValueError(
                f"prior_iterations={self.prior_iterations} iterates on the batch: it needs "
                "normalization=prior and scope=batch"
            )
        if self.refresh is not None and self.normalization == "batchnorm":
            raise ValueError(
                f"refresh={self.refresh.kind} makes prototypes of features that student and teacher share, "
                "and normalization=batchnorm changes the teacher's; leave one of the two out"
            )
        if self.refresh is not None and (self.refresh.kind, self.feature_norm) == ("em", "none"):
            raise ValueError(
                "refresh=em needs features of one length: set feature_norm to l2 or std, or refresh=kmeans"
            )
        return self

    def scheduled(self) -> dict[str, Scheduled]:
        found: dict[str, Scheduled] = {
            "student_temperature": self.student_temperature,
            "teacher_temperature": self.teacher_temperature,
        }
        if isinstance(self.teacher, EmaTeacher):
            found["teacher_momentum"] = self.teacher.momentum
        return found


class SupervisedConfig(StrictModel):
    """The yardstick with labels: cross-entropy of a linear classifier on the backbone."""

    name: Literal["supervised"] = "supervised"
    num_classes: int = Field(ge=2)  # K; the data set must have as many

    def scheduled(self) -> dict[str, Scheduled]:
        return {}


MethodConfig = Annotated[
    Annotated[HydesConfig, Tag("hydes")]
    | Annotated[ImsvdConfig, Tag("imsvd")]
    | Annotated[DistillConfig, Tag("distill")]
    | Annotated[SupervisedConfig, Tag("supervised")],
    chosen_by("name", ("hydes", "imsvd", "distill", "supervised"), default="hydes"),
]
