"""ResNet-12, the larger of the two encoders that few-shot learning is compared with."""

import torch
from torch import Tensor, nn

from implicitlayers.models.encoders import Encoder


class ResNet12(Encoder):
    """Four residual blocks of three 3×3 convolutions, leaky ReLU, 2×2 max-pooling after each; the output is flattened.

    ``n_features = widths[-1] · (image_size // 16)²``: 2560 on 32×32, 16,000 on 84×84. DropBlock is left out, which
    takes no time worth mentioning. Source: Lee et al., "Meta-learning with differentiable convex optimization" (2019).
    """

    def __init__(self, in_channels: int = 3, image_size: int = 32, widths: tuple[int, ...] = (64, 160, 320, 640)):
        super().__init__()
        inputs = (in_channels, *widths[:-1])
        self.blocks = nn.Sequential(*(_Block(i, o) for i, o in zip(inputs, widths, strict=True)), nn.Flatten())
        self.blocks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
        self.n_features = widths[-1] * (image_size // 16) ** 2

    def forward(self, images: Tensor) -> Tensor:
        """(b, in_channels, image_size, image_size) -> (b, n_features)."""
        return self.blocks(images)


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [
                nn.Conv2d(in_channels if i == 0 else out_channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.LeakyReLU(0.1),
            ]
        self.path = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.end = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.path(x) + self.shortcut(x))
