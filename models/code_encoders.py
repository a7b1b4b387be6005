"""Encoders of multi-task learning: what turns observations into a few codes, one for each latent, one hopes."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Vectors (b, n_observed) to codes (b, n_codes), by dense layers with leaky ReLUs of slope 0.2 between them.

    Args:
        n_observed: size of an observation.
        n_codes: size of the output.
        widths: of the hidden layers.
    """

    def __init__(self, n_observed: int = 6, n_codes: int = 6, widths: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((n_observed, *widths)):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear((n_observed, *widths)[-1], n_codes))

    def forward(self, observations: Tensor) -> Tensor:
        """(b, n_observed) -> (b, n_codes)."""
        return self.layers(observations)


class ConvEncoder(nn.Module):
    """Images (b, channels, size, size) in [0, 1] to codes (b, n_codes): the network of the paper's experiments.

    Convolutions with ReLU, each halving the image: 32 (4×4), 32 (4×4), 64 (2×2), 64 (2×2); then dense layers of 256
    with ReLU and ``n_codes``.

    Args:
        image_size: height and width, a multiple of 16.
        n_codes: size of the output.
        in_channels: 3 for colour.

    Source: Lachapelle et al., "Synergies between disentanglement and sparsity", ICML 2023; the network of Locatello et
    al., "Challenging common assumptions in the unsupervised learning of disentangled representations", ICML 2019.
    """

    def __init__(self, image_size: int = 64, n_codes: int = 6, in_channels: int = 3) -> None:
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise ValueError(f"image_size: given {image_size}, expected a multiple of 16")
        layers: list[nn.Module] = []
        for (inputs, outputs), kernel in zip(pairwise((in_channels, 32, 32, 64, 64)), (4, 4, 2, 2), strict=True):
            layers += [nn.Conv2d(inputs, outputs, kernel, stride=2, padding=(kernel - 2) // 2), nn.ReLU()]
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(64 * (image_size // 16) ** 2, 256), nn.ReLU(), nn.Linear(256, n_codes)
        )
        # Channels-last convolutions are faster on CPUs, and no slower on GPUs.
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub

    def forward(self, images: Tensor) -> Tensor:
        """(b, in_channels, image_size, image_size) -> (b, n_codes)."""
        return self.layers(images.contiguous(memory_format=torch.channels_last))
