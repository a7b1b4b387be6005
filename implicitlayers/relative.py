"""A strength as a share of the strength at which the solution becomes zero."""

from torch import Tensor, nn

from . import arguments, validation
from .implicit import is_transformed


class Relative(nn.Module):
    """l1 = r · l1_max, the smallest l1 with solution zero (`SparseLayer.l1_max`), for each element of the batch.

    Give it as a layer's ``l1``: ``il.Lasso(l1=il.Relative(0.1))``. In [0, 1) some feature is in use, from 1 on none.

    Args:
        r: ≥ 0, a number, a tensor over the batch, or an ``nn.Parameter``.
        differentiate: whether derivatives with respect to X, Y and the weights pass through l1_max as well; if not, it
            is held constant.

    Raises:
        ValueError: ``r`` is negative, not finite, or not a number.
    """

    def __init__(self, r: float | Tensor, differentiate: bool = False) -> None:
        super().__init__()
        value = validation.strength("r", r)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer("r", value, persistent=False)
        else:
            self.r = value
        self.differentiate = arguments.switch("differentiate", differentiate)

    def extra_repr(self) -> str:
        """The share."""
        return short(self.r)


def short(strength: float | Tensor) -> str:
    """A strength in a representation: one number by its value, several, one for each element of a batch, by shape."""
    if not isinstance(strength, Tensor):
        return f"{strength:g}" if isinstance(strength, float) else repr(strength)
    kind = "Parameter" if isinstance(strength, nn.Parameter) else "tensor"
    if strength.dim() or strength.is_meta or is_transformed(strength):
        return f"{kind}{tuple(strength.shape)}"
    return f"{kind}({strength.item():g})"
