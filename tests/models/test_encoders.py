import pytest
import torch

from implicitlayers.models.encoders import Conv4


@pytest.mark.parametrize(("channels", "size", "widths"), [(1, 32, (64,) * 4), (3, 84, (4, 5, 6, 7)), (1, 16, (2,) * 4)])
def test_n_features_is_the_width_of_the_output(channels, size, widths):
    encoder = Conv4(channels, size, widths).eval()
    assert encoder(torch.rand(2, channels, size, size)).shape == (2, encoder.n_features)


def test_features_are_not_negative():
    assert Conv4().eval()(torch.rand(3, 1, 32, 32)).min() >= 0


def test_in_evaluation_an_image_does_not_depend_on_its_neighbours():
    encoder = Conv4(widths=(8,) * 4).eval()
    images = torch.rand(4, 1, 32, 32)
    alone = torch.cat([encoder(image) for image in images.split(1)])
    torch.testing.assert_close(encoder(images), alone)


@pytest.mark.parametrize("arguments", [{"image_size": 15}, {"widths": (8, 8, 8)}, {"widths": (8, 8, 8, 0)}])
def test_impossible_shapes_are_refused(arguments):
    with pytest.raises(ValueError, match=rf"{next(iter(arguments))}: given .* expected"):
        Conv4(**arguments)
