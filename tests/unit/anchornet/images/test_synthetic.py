"""Generated images: the same from the same seed, learnable only through their tags, easy and hard as promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anchornet.images import synthetic
from anchornet.images.decode import decode
from anchornet.images.preprocess import preprocess
from anchornet.images.synthetic import CLASSES, make_image, write_dataset
from anchornet.images.tensors import shrink


def test_an_image_depends_on_seed_and_index_only() -> None:
    first = make_image(3, 7)
    make_image(3, 8)
    again = make_image(3, 7)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert first[1:] == again[1:]
    for seed, index in [(3, 15), (4, 7), (7, 3)]:
        other = make_image(seed, index).pixels
        assert other.shape != first.pixels.shape or (other != first.pixels).mean() > 0.5


def test_images_are_photograph_like_in_size_and_type() -> None:
    shapes = []
    for index in range(40):
        pixels = make_image(0, index).pixels
        assert pixels.dtype == np.uint8
        assert pixels.std() > 25
        shapes.append(pixels.shape)
    heights, widths, channels = np.array(shapes).T
    assert min(heights.min(), widths.min()) >= 224
    assert max(heights.max(), widths.max()) <= synthetic.LONG_SIDE_MAX
    assert set(channels) == {3}
    assert (heights > widths).any()
    assert (heights < widths).any()


@pytest.mark.parametrize("classes", [CLASSES, ("blue-bars", "orange-rungs", "blue-rungs")])
def test_labels_and_difficulties_take_turns(classes: tuple[str, ...]) -> None:
    made = [make_image(1, index, classes) for index in range(4 * len(classes))]
    labels = [image.label for image in made]
    assert labels == list(range(len(classes))) * 4
    for label in range(len(classes)):
        assert [image.difficulty for image in made if image.label == label] == ["easy", "hard"] * 2


def test_tags_lie_apart_inside_the_central_crop() -> None:
    rng = np.random.default_rng(0)
    for height, width in [(240, 240), (240, 304), (304, 256)] * 20:
        places = synthetic._places(rng, height, width)
        scale = min(height, width) / 256
        for number, (top, left, side) in enumerate(places):
            for start, length in ((top, height), (left, width)):
                assert (length - 224 * scale) / 2 <= start <= (length + 224 * scale) / 2 - side
            assert all(synthetic._gap((top, left, side), other) > 2 for other in places[:number])


def test_the_first_tag_is_the_largest_by_far() -> None:
    for index in range(20):
        large, *decoys = (side for _, _, side in synthetic._places(np.random.default_rng(index), 256, 256))
        assert len(decoys) == synthetic.NUM_DECOYS
        assert max(decoys) < 0.72 * large
        assert sum(side**2 for side in decoys) > 1.5 * large**2


def test_placing_starts_again_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "TAG_SEEN", (88.0, 88.0))
    monkeypatch.setattr(synthetic, "DECOY_SEEN", (88.0, 88.0))
    monkeypatch.setattr(synthetic, "NUM_DECOYS", 3)  # four fit only near the corners
    assert len(synthetic._places(np.random.default_rng(0), 256, 256)) == 4


def pattern(name: str, difficulty: str, rng: np.random.Generator) -> NDArray[np.float32]:
    period = rng.uniform(*synthetic.PERIOD_SEEN[difficulty])
    return synthetic._pattern(rng, name, 48, period, synthetic.PHASE_BLOCK[difficulty])


@pytest.mark.parametrize("difficulty", synthetic.DIFFICULTIES)
def test_patterns_vary_along_the_axes_they_are_named_for(difficulty: str) -> None:
    """The mean step to the next pixel, downwards over sideways, tells bars from rungs."""
    rng = np.random.default_rng(2)
    for name, low, high in [("bars", 0.0, 0.7), ("rungs", 1.4, np.inf)]:
        made = np.stack([pattern(name, difficulty, rng) for _ in range(8)])
        assert np.abs(made).max() <= 1
        down, sideways = np.abs(np.diff(made, axis=1)).mean(), np.abs(np.diff(made, axis=2)).mean()
        assert low <= down / (sideways + 1e-9) <= high, name


def test_the_large_tag_says_the_class_by_colour_and_pattern() -> None:
    """Red against blue tells the colours apart, the mean step down against the one sideways the patterns."""
    for label, name in enumerate(CLASSES):
        for index in (label, label + len(CLASSES)):
            made = make_image(3, index)
            assert made.label == label
            top, left, side = largest_disc(3, index)
            inner = made.pixels[top : top + side, left : left + side].astype(float)
            inner = inner[side // 4 : -side // 4, side // 4 : -side // 4]
            assert (inner[..., 0].mean() > inner[..., 2].mean()) == name.startswith("orange")
            down, sideways = (np.abs(np.diff(inner.mean(2), axis=axis)).mean() for axis in (0, 1))
            assert (down > sideways) == name.endswith("rungs")


def largest_disc(seed: int, index: int) -> tuple[int, int, int]:
    """Where make_image puts the large tag: its first draws, again."""
    rng = np.random.default_rng((seed, index))
    height, width = synthetic._size(rng)
    synthetic._clutter(rng, height, width)
    return synthetic._places(rng, height, width)[0]


def evenness(square: NDArray[np.float64]) -> float:
    """How far from 0 the logarithm of (steps down / steps sideways) is: bars and rungs are far, noise is near."""
    steps = [np.abs(np.diff(square, axis=axis)).mean() for axis in (0, 1)]
    return float(abs(np.log(steps[0] / steps[1])))


def test_shrinking_keeps_easy_bars_and_destroys_hard_ones() -> None:
    """Measured on the pattern itself, as a square that fills the image."""
    rng = np.random.default_rng(4)
    kept = {}
    for difficulty in synthetic.DIFFICULTIES:
        period = np.mean(synthetic.PERIOD_SEEN[difficulty])
        whole = synthetic._pattern(rng, "bars", 224, float(period), synthetic.PHASE_BLOCK[difficulty])
        small = shrink(torch.from_numpy(whole.astype(np.float32))[None, None], 95)[0, 0].double().numpy()
        kept[difficulty] = evenness(small) / evenness(whole.astype(np.float64))
    assert kept["easy"] > 0.9
    assert kept["hard"] < 0.5


def test_files_hold_the_images_and_their_detail(tmp_path: Path) -> None:
    paths = write_dataset(tmp_path, 16, seed=5)
    assert [path.relative_to(tmp_path).as_posix() for path in paths[:5]] == [
        "blue-bars/000000-easy.jpg",
        "blue-rungs/000001-easy.jpg",
        "orange-bars/000002-easy.jpg",
        "orange-rungs/000003-easy.jpg",
        "blue-bars/000004-hard.jpg",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(CLASSES)
    for index, path in enumerate(paths):
        pixels = make_image(5, index).pixels
        read = decode(path.read_bytes())
        assert read.shape == pixels.shape
        error = (preprocess(read).astype(float) - preprocess(pixels)).std()
        assert error < 12


def test_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_dataset(tmp_path / name, 5, seed=9) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_every_class_has_a_folder_even_without_images(tmp_path: Path) -> None:
    assert write_dataset(tmp_path, 1, seed=0, classes=("blue-rungs", "blue-bars"))[0].parent.name == "blue-rungs"
    assert (tmp_path / "blue-bars").is_dir()
    assert write_dataset(tmp_path / "none", 0, seed=0) == []


@pytest.mark.parametrize("classes", [(), ("blue-bars", "stars"), ("Blue-bars",)])
def test_unknown_classes_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be some of blue-bars, blue-rungs, orange-bars, orange-rungs, got"):
        make_image(0, 0, classes)


def test_negative_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed and index must be >= 0, got -1 and 0"):
        make_image(-1, 0)
    with pytest.raises(ValueError, match="seed and index must be >= 0, got 0 and -2"):
        make_image(0, -2)
    with pytest.raises(ValueError, match="num_images must be >= 0, got -1"):
        write_dataset(tmp_path, -1, seed=0)
