"""What was tried beside the networks of ``benchmarks.photographs --tuned``: is it worth having?

    PYTHONPATH=.:runs/photographs/packages python -m benchmarks.variants --photographs ../shared/data/grocery-store \
        --set grocery --folder runs/photographs/grocery-variants

Runs after ``benchmarks.photographs --tuned`` and with its recipe of the patch network (jobs/configs/SET/patch.yaml), in one loop
and with the same seed, so that only what is named differs:

- ``alone``: every patch learns its label by itself, as ``jobs.train`` teaches it;
- ``fitted sum``: and so does the running combination of AnchorNet, the glance and the patches so far, under the weights that
  calibration fitted;
- ``one backbone``: one network for the glance and the patches, but for a last layer each, taught both.

And AnchorNet by itself, from the run folders of ``jobs.train`` that ``--anchornets`` names. A step whose result is in the folder
is not done again. N images, n of a batch, V patches per image, C classes.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from anchornet.bundle import Bundle, load_bundle
from anchornet.cascade.run import run_all_exits
from anchornet.cascade.view_table import ViewTable
from anchornet.files.config import load_config
from anchornet.images import tensors
from anchornet.images.augment import random_view
from anchornet.images.decode import decode
from anchornet.models import training
from anchornet.models.card import load_model
from anchornet.systems.anchornet.cascade import anchor_cascade
from anchornet.systems.anchornet.settings import PatchRecipe
from anchornet.systems.anchornet.training import PatchView, glance_view
from benchmarks.combination import SPENDS, Ways, judge, way
from benchmarks.last_layers import standard_error, tuned_small
from benchmarks.markdown import line, percent
from benchmarks.photographs import BATCH, IMAGE, SYSTEM, pixels_of, splits, table_of
from jobs.settings.train import TrainConfig

VARIANTS = ("alone", "fitted sum", "one backbone")
SEED = 0
SPLITS = ("validation", "test")


class TwoHeads(nn.Module):
    """One backbone with a last layer for the glance and one for patches."""

    def __init__(self, glance: Mapping[str, Tensor], patch: Mapping[str, Tensor], num_classes: int) -> None:
        super().__init__()
        self.backbone = tuned_small(num_classes)
        self.backbone.load_state_dict(patch)
        self.backbone._fc = nn.Identity()
        self.heads = nn.ModuleList()
        for state in (glance, patch):
            head = nn.Linear(state["_fc.weight"].shape[1], num_classes)
            head.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
            self.heads.append(head)

    def forward(self, glances_n: Tensor, patches_m: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, C) and (n * V, C)."""
        features = self.backbone(torch.cat([glances_n, patches_m]))
        return self.heads[0](features[: len(glances_n)]), self.heads[1](features[len(glances_n) :])

    def networks(self, num_classes: int) -> dict[str, nn.Module]:
        """A network for each role, as a cascade takes them."""
        found = {}
        for role, head in zip(("glance", "patch"), self.heads, strict=True):
            found[role] = tuned_small(num_classes)
            last = {f"_fc.{name}": value for name, value in head.state_dict().items()}
            found[role].load_state_dict({**self.backbone.state_dict(), **last})
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """0 when the tables are written."""
    logging.getLogger("anchornet").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", required=True, help="folder that holds train, validation and test")
    parser.add_argument("--set", required=True, dest="name", help="grocery or clothing: whose recipes and runs")
    parser.add_argument("--folder", required=True, help="where everything goes")
    parser.add_argument("--anchornets", nargs="*", default=["distilled"], help="runs of AnchorNet below runs/SET")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    folder, photographs = Path(arguments.folder), Path(arguments.photographs)
    folder.mkdir(parents=True, exist_ok=True)
    base = Path("runs/photographs")
    bundle = load_bundle(str(base / f"{arguments.name}-tuned" / "bundle"))
    for network in bundle.networks.values():
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    known = {split: np.load(base / f"{arguments.name}-tuned" / f"views-{split}.npz") for split in SPLITS}
    tuned = {split: table_of(bundle, each["views"], each["label"]) for split, each in known.items()}
    weights = way("fitted", bundle, tuned, "fitted").calibration.combined.combination.weights
    ways = []
    for variant in VARIANTS:
        slug = variant.replace(" ", "_")
        networks = trained(variant, folder / slug, bundle, arguments.name, photographs, weights)
        tables = {
            split: views(folder / f"{slug}-{split}.npy", bundle, networks, photographs, split) for split in SPLITS
        }
        ways.append(way(variant, bundle, tables, "fitted"))
    found = "\n\n".join(
        (
            "\n".join(exit_lines(ways)),
            "\n".join(frontier_lines(ways)),
            "\n".join(
                anchornet_lines([Path("runs") / arguments.name / run for run in arguments.anchornets], photographs)
            ),
        )
    )
    (folder / "report.md").write_text(found + "\n")
    print(found)
    return 0


def trained(
    variant: str, folder: Path, bundle: Bundle, name: str, photographs: Path, weights: Sequence[Sequence[float]]
) -> dict[str, nn.Module]:
    """The networks ``glance`` and ``patch`` of a variant, trained where the folder has none."""
    classes = len(bundle.classes)
    states = {
        role: safetensors.torch.load_file(f"runs/photographs/{name}/{role}.safetensors") for role in ("glance", "patch")
    }
    network: nn.Module
    if variant == "one backbone":
        network = TwoHeads(states["glance"], states["patch"], classes)
    else:
        network = tuned_small(classes)
        network.load_state_dict(states["patch"])
    path = folder.with_suffix(".safetensors")
    if path.exists():
        network.load_state_dict(safetensors.torch.load_file(path))
    else:
        learn(variant, network, bundle, name, photographs, weights)
        safetensors.torch.save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    network.eval()
    if isinstance(network, TwoHeads):
        return network.networks(classes)
    return {"glance": bundle.networks["glance"], "patch": network}


def learn(
    variant: str, network: nn.Module, bundle: Bundle, name: str, photographs: Path, weights: Sequence[Sequence[float]]
) -> None:
    """Train in place by the recipe of the set's patch network."""
    config = load_config(TrainConfig, f"jobs/configs/{name}/patch.yaml")
    recipe, settings = config.recipe, config.recipe.training
    assert isinstance(recipe, PatchRecipe)
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    files, label_N, _ = splits(photographs, "train")
    images = [decode(path.read_bytes()) for path in files]
    network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = training.build_optimizer(network, settings)
    view = PatchView(
        bundle.networks["anchornet"],
        recipe.num_patches,
        recipe.iou_threshold,
        config.crop.size,
        recipe.training_patches,
    )
    steps = -(-len(files) // settings.batch_size)
    for epoch in range(settings.epochs):
        started, total = time.perf_counter(), 0.0
        order = random.permutation(len(files))
        for step in range(steps):
            rows = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            training.set_learning_rate(optimizer, training.learning_rate(settings, epoch, step / steps))
            cut = np.stack([random_view(images[row], config.crop, random) for row in rows])
            batch = tensors.normalise(torch.from_numpy(cut).permute(0, 3, 1, 2)).contiguous(
                memory_format=torch.channels_last
            )
            loss = loss_of(
                variant,
                network,
                bundle,
                view,
                batch,
                torch.from_numpy(label_N[rows]).long(),
                weights,
                settings.label_smoothing,
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        print(
            f"{variant}: epoch {epoch}, loss {total / len(files):.4f}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )


def loss_of(
    variant: str,
    network: nn.Module,
    bundle: Bundle,
    view: PatchView,
    images_n3HW: Tensor,
    labels_n: Tensor,
    weights: Sequence[Sequence[float]],
    smoothing: float,
) -> Tensor:
    """A scalar: each view by itself, and what the variant adds."""
    patches_m, count = view(images_n3HW).contiguous(memory_format=torch.channels_last), view.num_patches
    repeated_m = labels_n.repeat_interleave(count)
    if isinstance(network, TwoHeads):
        said = torch.cat(network(glance_view(images_n3HW), patches_m))
        return training.classification_loss(said, torch.cat([labels_n, repeated_m]), smoothing)
    said_m = network(patches_m)
    loss = training.classification_loss(said_m, repeated_m, smoothing)
    if variant == "alone":
        return loss
    with torch.no_grad():
        before = [
            training.logits_of(bundle.networks["anchornet"](images_n3HW)),
            training.logits_of(bundle.networks["glance"](glance_view(images_n3HW))),
        ]
    looks = [*before, *said_m.unflatten(0, (-1, count)).unbind(1)]
    sums = [
        sum(weight * look for weight, look in zip(weights[1 + k], looks, strict=False)) for k in range(1, count + 1)
    ]  # exit 0 is AnchorNet's, 1 the glance's, 1 + k that of the k-th patch
    running = [training.classification_loss(said, labels_n, smoothing) for said in sums]  # type: ignore[arg-type]
    return loss + torch.stack(running).mean()


def views(path: Path, bundle: Bundle, networks: Mapping[str, nn.Module], photographs: Path, split: str) -> ViewTable:
    """All views of a split, computed where the folder has none."""
    files, label_N, _ = splits(photographs, split)
    if not path.exists():
        cascade = anchor_cascade(SYSTEM, {**bundle.networks, **networks}, bundle.classes)
        parts = []
        for start in range(0, len(files), BATCH):
            images = pixels_of(files[start : start + BATCH], IMAGE).transpose(0, 2, 3, 1).copy()
            parts.append(run_all_exits(cascade, images).views_NVC.numpy())
        np.save(path, np.concatenate(parts))
    return table_of(bundle, np.load(path), label_N)


def exit_lines(ways: Sequence[Ways]) -> Iterator[str]:
    """One line per exit: accuracy of each variant on the test photographs, and its difference to the first."""
    yield line(("exit", ways[0].name, *(f"{each.name} (difference)" for each in ways[1:])))
    yield line(["---"] * (1 + len(ways)))
    for k, name in enumerate(ways[0].test.exits):
        yield line((name, *_cells([each.test.correct[:, k] for each in ways])))


def frontier_lines(ways: Sequence[Ways]) -> Iterator[str]:
    """One line per spend, likewise."""
    yield line(("GFLOPs", ways[0].name, *(f"{each.name} (difference)" for each in ways[1:])))
    yield line(["---"] * (1 + len(ways)))
    for asked in SPENDS:
        yield line(
            (f"{asked:.2f}", *_cells([judge(each.test, each.calibration.frontier, asked).right_N for each in ways]))
        )


def _cells(right: Sequence[np.ndarray]) -> Iterator[str]:
    yield percent(right[0].mean())
    for each in right[1:]:
        paired = each.astype(float) - right[0].astype(float)
        yield f"{percent(each.mean())} ({100 * paired.mean():+.1f} +- {100 * standard_error(paired):.1f})"


@torch.inference_mode()
def anchornet_lines(runs: Sequence[Path], photographs: Path) -> Iterator[str]:
    """AnchorNet by itself on the test photographs."""
    files, label_N, _ = splits(photographs, "test")
    yield line(("AnchorNet by itself, run", "test accuracy"))
    yield line(["---"] * 2)
    for run in runs:
        network, _ = load_model(str(run / "model"))
        found = []
        for start in range(0, len(files), BATCH):
            batch = tensors.normalise(torch.from_numpy(pixels_of(files[start : start + BATCH], IMAGE)))
            found.append(training.logits_of(network(batch)).argmax(1).numpy())
        right = np.concatenate(found) == label_N
        yield line((run.name, f"{percent(right.mean())} +- {100 * standard_error(right):.1f}"))


if __name__ == "__main__":
    sys.exit(main())
