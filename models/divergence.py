"""Training that ends where its loss is no number any more."""

from torch import Tensor


class Diverged(RuntimeError):
    """A loss is NaN or infinite: whatever follows would be about nothing."""


def finite(loss: Tensor, name: str, step: int) -> Tensor:
    """The loss, if it is a number; raises `Diverged` with its name and the step if not."""
    if not loss.isfinite():
        raise Diverged(
            f"{name}: given {loss.item()} at step {step}, expected a finite number. Likely causes: (a) the learning"
            " rate is too high; (b) the images or targets hold NaN"
        )
    return loss
