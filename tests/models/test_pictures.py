import torch
from hypothesis import given
from hypothesis import strategies as st

from implicitlayers.models.datasets.correlated import HALF_WIDTH
from implicitlayers.models.pictures import image_sheet, sample_sheet, traversals


@given(n_factors=st.integers(1, 7), n_steps=st.integers(2, 9))
def test_traversals_move_one_factor_at_a_time_over_its_range(n_factors, n_steps):
    at = torch.linspace(-0.7, 0.9, n_factors)
    latents = traversals(at, n_steps)
    assert latents.shape == (n_factors, n_steps, n_factors)
    for factor, row in enumerate(latents):
        torch.testing.assert_close(row[:, factor], torch.linspace(-HALF_WIDTH, HALF_WIDTH, n_steps))
        others = torch.arange(n_factors) != factor
        torch.testing.assert_close(row[:, others], at[others].expand(n_steps, -1))


def test_sheets_show_every_image_in_its_place():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 1, 4, 4)
    for figure in (image_sheet(images, ("first", "second")), sample_sheet(images.flatten(0, 1), 2, 3)):
        sheet = figure.axes[0].images[0].get_array()
        assert sheet.shape == (8, 12, 3)
        for row in range(2):
            for column in range(3):
                place = sheet[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                assert (place == images[row, column].permute(1, 2, 0).numpy()).all()


def test_rows_have_their_names():
    figure = image_sheet(torch.zeros(2, 3, 3, 4, 4, dtype=torch.uint8), ("first", "second"), "Both")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert axes.get_yticks().tolist() == [2, 6]
