"""A strength as a share of the strength at which the solution becomes zero."""

from torch import Tensor, nn

from . import validation


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
        self.differentiate = differentiate

    def extra_repr(self) -> str:
        """The share."""
        return short(self.r)


def short(strength: float | Tensor) -> str:
    """A strength in a representation: a tensor by its shape."""
    return f"tensor{tuple(strength.shape)}" if isinstance(strength, Tensor) else f"{strength:g}"
