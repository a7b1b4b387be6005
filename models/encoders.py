"""Encoders: what turns images into features. A head then solves each episode on those features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """A network from images (b, channels, height, width) in [0, 1] to features (b, n_features).

    A subclass sets ``n_features`` in its constructor.
    """

    n_features: int


class Conv4(Encoder):
    """Four blocks of 3×3 convolution, batch normalisation, ReLU and 2×2 max-pooling, then flattened.

    ``n_features = widths[-1] · (image_size // 16)²``: 256 for the default widths on 32×32 images, 1600 on 84×84.
    The features are non-negative, so a zero row of a sparse head means that the feature is ignored.

    Args:
        in_channels: 1 for grey images, 3 for colour.
        image_size: height and width of the images, at least 16.
        widths: channels of the four blocks; (96, 192, 384, 512) is the encoder of R2D2 (Bertinetto et al., 2019).

    Source: Vinyals et al., "Matching networks for one shot learning", NeurIPS 2016; the same network in Snell et al.,
    "Prototypical networks for few-shot learning", NeurIPS 2017.
    """

    def __init__(self, in_channels: int = 1, image_size: int = 32, widths: Sequence[int] = (64, 64, 64, 64)):
        super().__init__()
        if image_size < 16:
            raise ValueError(f"image_size: given {image_size}, expected ≥ 16, so that four halvings leave a pixel")
        if len(widths) != 4 or min(widths) < 1:
            raise ValueError(f"widths: given {tuple(widths)}, expected four integers ≥ 1")
        self.n_features = widths[-1] * (image_size // 16) ** 2
        inputs = (in_channels, *widths[:-1])
        self.blocks = nn.Sequential(*(_block(i, o) for i, o in zip(inputs, widths, strict=True)), nn.Flatten())
        # Channels-last convolutions and poolings run about twice as fast on CPUs, and no slower on GPUs.
        self.blocks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub

    def forward(self, images: Tensor) -> Tensor:
        """(b, in_channels, image_size, image_size) -> (b, n_features)."""
        return self.blocks(images)


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        # No bias: the batch normalisation that follows would subtract it again.
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
