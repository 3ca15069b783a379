"""Random views: where the crops lie, what is in them, that they can be drawn again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as transforms
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from anchornet.images.augment import CropSettings, random_box, random_view


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**32))
def test_a_box_lies_inside_the_image(height: int, width: int, seed: int) -> None:
    top, left, box_height, box_width = random_box(height, width, CropSettings(), np.random.default_rng(seed))
    assert 0 <= top <= top + box_height <= height
    assert 0 <= left <= left + box_width <= width
    assert box_height >= 1
    assert box_width >= 1


def test_boxes_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    rng, image = np.random.default_rng(0), torch.empty(3, 400, 533)
    ours = np.array([random_box(400, 533, CropSettings(), rng) for _ in range(4000)], dtype=float)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)], float)
    for measure in (
        lambda box: box[:, 2] * box[:, 3] / (400 * 533),  # share of the area
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: box[:, 0] / 400,
        lambda box: box[:, 1] / 533,
    ):
        quantiles = np.quantile(measure(ours), [0.1, 0.5, 0.9]), np.quantile(measure(theirs), [0.1, 0.5, 0.9])
        np.testing.assert_allclose(*quantiles, atol=0.03)


def test_an_image_too_long_for_any_draw_gives_the_largest_centred_crop() -> None:
    settings = CropSettings(min_area_fraction=0.9)
    assert random_box(1000, 10, settings, np.random.default_rng(0)) == (493, 0, 13, 10)
    assert random_box(10, 1000, settings, np.random.default_rng(0)) == (0, 493, 10, 13)


def test_a_view_is_torchvisions_resized_crop_of_its_box() -> None:
    rgb, settings = picture(300, 400), CropSettings(flip_fraction=0.0)
    top, left, height, width = random_box(300, 400, settings, np.random.default_rng(7))
    expected = transforms.resized_crop(Image.fromarray(rgb), top, left, height, width, [224, 224])
    np.testing.assert_array_equal(random_view(rgb, settings, np.random.default_rng(7)), np.asarray(expected))


def test_the_same_stream_gives_the_same_view_and_another_one_another() -> None:
    rgb = picture(256, 256)
    first, again, other = (random_view(rgb, CropSettings(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_flipping_mirrors_left_and_right() -> None:
    rgb = picture(224, 224)
    plain, mirrored = (
        random_view(rgb, CropSettings(flip_fraction=fraction), np.random.default_rng(3)) for fraction in (0.0, 1.0)
    )
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])


def test_half_the_views_are_mirrored() -> None:
    rgb = np.zeros((32, 32, 3), dtype=np.uint8)
    rgb[:, 16:] = 255
    settings = CropSettings(size=8, min_area_fraction=1.0, min_aspect=1.0, max_aspect=1.0)
    rng = np.random.default_rng(0)
    mirrored = [random_view(rgb, settings, rng)[0, 0, 0] > 128 for _ in range(400)]
    assert 150 < sum(mirrored) < 250


def test_a_view_has_the_size_asked_for_and_the_input_is_untouched() -> None:
    rgb = picture(90, 60)
    before = rgb.copy()
    view = random_view(rgb, CropSettings(size=160), np.random.default_rng(0))
    assert view.shape == (160, 160, 3)
    assert view.dtype == np.uint8
    np.testing.assert_array_equal(rgb, before)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"size": 0}, "crop size must be >= 1 pixel, got 0"),
        ({"min_area_fraction": 0.0}, "crop.min_area_fraction and crop.max_area_fraction must satisfy"),
        (
            {"min_area_fraction": 0.5, "max_area_fraction": 0.4},
            "crop.min_area_fraction and crop.max_area_fraction must satisfy",
        ),
        ({"max_area_fraction": 1.1}, "crop.min_area_fraction and crop.max_area_fraction must satisfy"),
        ({"min_aspect": 2.0}, "crop.min_aspect and crop.max_aspect must satisfy"),
        ({"flip_fraction": 1.5}, "flip_fraction must be in"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CropSettings(**wrong)
