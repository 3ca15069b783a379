"""Images and a calibrated bundle of untrained networks, made once for all tests that label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from anchornet.bundle import load_bundle
from anchornet.cascade.run import run_all_exits
from anchornet.images.decode import decode
from anchornet.images.preprocess import preprocess
from jobs import calibrate
from tests.tiny_bundle import ARCHITECTURE, CLASSES, LOGGING_ARCHITECTURE, save_tiny_models, tiny_cascade

NUM_GOOD, NUM_BAD = 42, 3


@dataclass(frozen=True)
class Workshop:
    """Where things lie."""

    images: str
    bundle: str
    good_uris: tuple[str, ...]
    bad_uris: tuple[str, ...]
    minimum_gflops: float
    middle_gflops: float
    """A budget under which images leave at several exits."""


def build_workshop(folder: Path, architecture: str = ARCHITECTURE) -> Workshop:
    """Write images, calibrate. The truth is what the last exit says, so that later exits are worth their cost."""
    images = folder / "images"
    good = write_images(images, NUM_GOOD)
    bad = {"empty.jpg": b"", "text.txt": b"no picture", "cut.jpg": Path(good[0]).read_bytes()[:400]}
    for name, content in bad.items():
        (images / name).write_bytes(content)
    sort_by_last_exit(write_images(folder / "unsorted", 60, seed=1), folder / "held_out")
    bundle = str(folder / "bundle")
    models = save_tiny_models(str(folder / "models"), architecture)
    settings = [f"run.folder={folder}/calibrate", f"bundle={bundle}", f"data.path={folder}/held_out"]
    settings += [f"models.{name}={path}" for name, path in models.items()]
    assert calibrate.main([part for setting in settings for part in ("--set", setting)]) == 0
    frontier = load_bundle(bundle).frontier
    assert frontier is not None
    middle = 0.5 * (frontier.minimum_gflops + frontier.maximum_gflops)
    bad_uris = tuple(str(images / name) for name in bad)
    return Workshop(str(images), bundle, tuple(sorted(good)), bad_uris, frontier.minimum_gflops, middle)


def build_logging_shop(folder: Path, num_images: int, architecture: str = LOGGING_ARCHITECTURE) -> Workshop:
    """A workshop of slow networks that write down what they compute, with so many good images."""
    built = build_workshop(folder, architecture)
    write_images(folder / "images", num_images, seed=5)
    return built


def sort_by_last_exit(uris: list[str], folder: Path) -> None:
    """Copy images into the class folders that the cascade's last exit names."""
    pixels = np.stack([preprocess(decode(Path(uri).read_bytes())) for uri in uris])
    labels = run_all_exits(tiny_cascade(), pixels).prediction[:, -1]
    for uri, label in zip(uris, labels, strict=True):
        target = folder / CLASSES[label] / Path(uri).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(uri).read_bytes())


def write_images(folder: Path, num_images: int, seed: int = 0) -> list[str]:
    """JPEGs of coloured blocks in class folders."""
    generator = np.random.default_rng(seed)
    uris = []
    for i in range(num_images):
        path = folder / CLASSES[i % len(CLASSES)] / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = generator.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((240 + i % 5, 230), Image.Resampling.NEAREST).save(path, quality=90)
        uris.append(str(path))
    return uris
