"""All contenders, by name and by kind of problem."""

from ..problems import Case
from .accelerated import Accelerated
from .base import Contender
from .cvxpylayers_svm import Cvxpylayers
from .jaxopt_svm import Jaxopt, JaxoptTight
from .ours import Ours
from .qpth_svm import Qpth
from .regressions import Celer, ScikitLearn, Skglm
from .release import Release5, Release100

DENSE_SVM: tuple[type[Contender], ...] = (
    Ours,
    Qpth,
    Jaxopt,
    JaxoptTight,
    Cvxpylayers,
    Release5,
    Release100,
    Accelerated,
)
SPARSE_SVM = tuple(each for each in DENSE_SVM if each is not Qpth)
REGRESSION: tuple[type[Contender], ...] = (Ours, ScikitLearn, Celer, Skglm)
BY_NAME = {each.name: each for each in (*DENSE_SVM, *REGRESSION)}


def contenders_for(case: Case) -> tuple[type[Contender], ...]:
    """Who solves such problems, ours first."""
    if case.kind != "svm":
        return REGRESSION
    return SPARSE_SVM if case.l1_share > 0 else DENSE_SVM
