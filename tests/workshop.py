"""Images and a calibrated bundle of untrained networks, made once for all tests that label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from anchornet.bundle import assemble_bundle, load_bundle, write_calibration
from anchornet.calibration import calibrate
from anchornet.cascade.run import run_all_exits
from anchornet.cascade.view_table import ViewTable
from anchornet.images.decode import decode
from anchornet.images.preprocess import preprocess
from anchornet.systems.anchornet.settings import AnchorNetSettings
from tests.tiny_bundle import ARCHITECTURE, CLASSES, LOGGING_ARCHITECTURE, save_tiny_models

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
    """Write images, calibrate."""
    images = folder / "images"
    good = write_images(images, NUM_GOOD)
    bad = {"empty.jpg": b"", "text.txt": b"no picture", "cut.jpg": Path(good[0]).read_bytes()[:400]}
    for name, content in bad.items():
        (images / name).write_bytes(content)
    bundle = str(folder / "bundle")
    assemble_bundle(bundle, save_tiny_models(str(folder / "models"), architecture), AnchorNetSettings())
    _calibrate(bundle, write_images(folder / "held_out", 60, seed=1))
    frontier = load_bundle(bundle).frontier
    assert frontier is not None
    middle = 0.5 * (frontier.minimum_gflops + frontier.maximum_gflops)
    bad_uris = tuple(str(images / name) for name in bad)
    return Workshop(str(images), bundle, tuple(sorted(good)), bad_uris, frontier.minimum_gflops, middle)


def _calibrate(folder: str, uris: list[str]) -> None:
    """What ``jobs.calibrate`` does to a bundle, without Ray, whose start takes longer.

    The truth is what the last exit says, so that later exits are worth their cost.
    """
    bundle = load_bundle(folder)
    cascade, count = bundle.as_built(), len(uris)
    said = run_all_exits(cascade, np.stack([preprocess(decode(Path(uri).read_bytes())) for uri in uris]))
    views = ViewTable(
        exits=tuple(exit.name for exit in cascade.exits),
        views=cascade.combination.views,
        image_id=np.arange(count),
        logits_RWC=said.views_NVC.numpy(),
        row=np.argsort(said.prediction[:, -1], kind="stable"),  # class by class, as in class folders
        cost_macs=said.cost_NK,
        label=np.sort(said.prediction[:, -1]),
        columns=tuple(range(len(cascade.combination.views))),
    )
    found = calibrate(bundle, views, "fitted", drop_exits=True)
    combination, held = found.combined
    write_calibration(folder, held.table, found.frontier, combination=combination, settings=found.settings)


def build_logging_shop(folder: Path, num_images: int, architecture: str = LOGGING_ARCHITECTURE) -> Workshop:
    """A workshop of slow networks that write down what they compute, with so many good images."""
    built = build_workshop(folder, architecture)
    write_images(folder / "images", num_images, seed=5)
    return built


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
