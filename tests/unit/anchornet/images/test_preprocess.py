"""From a picture to a network's pixels: exactly those that torchvision makes, and several views of one picture in a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from anchornet.images import preprocess as module
from anchornet.images.preprocess import (
    Geometry,
    Preprocessing,
    Views,
    join_views,
    length,
    preprocess,
    split_views,
)

RNG = np.random.default_rng(0)
SIDES = st.one_of(st.integers(1, 40), st.integers(41, 700))


def noise(width: int, height: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def torchvisions(rgb: np.ndarray, view: Geometry) -> np.ndarray:
    """torchvision's own pixels of a view."""
    resize = view.resize if view.keep_aspect else (view.resize, view.resize)
    mode = InterpolationMode(view.interpolation)
    both = transforms.Compose([transforms.Resize(resize, mode), transforms.CenterCrop(view.crop)])
    return np.asarray(both(Image.fromarray(rgb)))


@settings(max_examples=60)
@given(
    width=SIDES,
    height=SIDES,
    resize=st.integers(1, 300),
    margin=st.floats(0.3, 1),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
    keep_aspect=st.booleans(),
)
def test_pixels_are_torchvisions_to_the_last_level(
    width: int, height: int, resize: int, margin: float, interpolation: Any, keep_aspect: bool
) -> None:
    crop = max(1, int(margin * resize))
    view = Geometry(resize=resize, crop=crop, interpolation=interpolation, keep_aspect=keep_aspect)
    rgb = noise(width, height)
    if max(view._resized(width, height)) > 3000:  # a strip: seconds in torchvision
        return
    np.testing.assert_array_equal(view(rgb), torchvisions(rgb, view))


@pytest.mark.parametrize(
    ("width", "height"), [(533, 400), (400, 533), (256, 256), (300, 257), (100, 77), (37, 999), (1, 1), (1999, 1501)]
)
def test_the_papers_preprocessing_is_torchvisions(width: int, height: int) -> None:
    rgb = noise(width, height)
    np.testing.assert_array_equal(preprocess(rgb), torchvisions(rgb, Geometry()))
    np.testing.assert_array_equal(Preprocessing()(rgb), preprocess(rgb))


def test_of_a_long_strip_only_the_crop_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert preprocess(np.zeros((1, 300_000, 3), np.uint8)).shape == (224, 224, 3)  # 256 x 76,800,000 if resized whole
    rgb = noise(1200, 300)
    exact = preprocess(rgb)
    monkeypatch.setattr(module, "LARGEST_RESIZED", 256 * 1024 - 1)
    cut = preprocess(rgb)
    assert (np.abs(cut.astype(int) - exact) <= 1).all()
    monkeypatch.setattr(module, "LARGEST_RESIZED", 256 * 1024)
    np.testing.assert_array_equal(preprocess(rgb), exact)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": 300}, r"preprocessing\.crop must be 1 \.\. resize \(256\) pixels, got 300; raise resize"),
        ({"crop": 0}, r"preprocessing\.crop must be 1 \.\. resize \(256\) pixels, got 0"),
        ({"interpolation": "cubic"}, r"preprocessing\.interpolation must be one of nearest, .*, got 'cubic'"),
        ({"mean": (0.5,)}, r"preprocessing\.mean must be 3 numbers, one per channel, got \[0\.5\]"),
        ({"std": (1.0, 1.0, float("nan"))}, r"preprocessing\.std must be 3 numbers"),
        ({"std": (1.0, 0.0, 1.0)}, r"preprocessing\.std must be > 0 for every channel, got \[1\.0, 0\.0, 1\.0\]"),
    ],
)
def test_what_cannot_be_made_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**values)


SMALL = Preprocessing(resize=36, crop=32)
OTHER = Preprocessing(resize=48, crop=48, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SAME_VIEW = Preprocessing(resize=36, crop=32, mean=(0.0, 0.0, 0.0))


def test_networks_with_the_same_view_share_its_pixels() -> None:
    views = Views(networks=(SMALL, OTHER, SAME_VIEW))
    assert views.geometries == (SMALL.geometry, OTHER.geometry)
    assert [views.view_of(k) for k in range(3)] == [0, 1, 0]
    assert views.shape == (32 * 32 * 3 + 48 * 48 * 3,) == (length(views.geometries),)


def test_views_in_a_row_come_apart_as_they_were() -> None:
    views = Views(networks=(SMALL, OTHER))
    pictures = [noise(60, 50), noise(47, 99)]
    rows = np.stack([views(rgb) for rgb in pictures])
    first, second = split_views(rows, views.geometries)
    np.testing.assert_array_equal(first, [SMALL(rgb) for rgb in pictures])
    np.testing.assert_array_equal(second, [OTHER(rgb) for rgb in pictures])
    np.testing.assert_array_equal(join_views([first, second]), rows)
    assert [part.shape for part in split_views(rows[:0], views.geometries)] == [(0, 32, 32, 3), (0, 48, 48, 3)]


def test_one_view_is_an_image_like_any_other() -> None:
    views = Views(networks=(SMALL, SAME_VIEW))
    assert views.shape == SMALL.shape == (32, 32, 3)
    rgb = noise(60, 50)
    np.testing.assert_array_equal(views(rgb), SMALL(rgb))
    [only] = split_views(views(rgb)[None], views.geometries)
    np.testing.assert_array_equal(only[0], SMALL(rgb))


def test_views_of_no_network_are_refused() -> None:
    with pytest.raises(ValueError, match="views need the preprocessing of at least one network, got none"):
        Views(networks=())
