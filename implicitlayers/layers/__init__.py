"""One nn.Module per estimator."""

from .classification import MulticlassSVM
from .regression import GroupLasso, Ridge

__all__ = ["GroupLasso", "MulticlassSVM", "Ridge"]
