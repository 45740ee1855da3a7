"""The methods there are, by the name that a recipe gives."""

from viewmill.methods.families.distillation import Distillation
from viewmill.methods.families.hydes import HyDeS
from viewmill.methods.families.imsvd import IMSVD
from viewmill.methods.families.supervised import Supervised
from viewmill.methods.method import Method

METHODS: dict[str, type[Method]] = {
    "hydes": HyDeS,
    "imsvd": IMSVD,
    "distill": Distillation,
    "supervised": Supervised,
}
