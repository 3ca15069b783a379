"""The commands of docs/bring-your-own.md, run as they stand there, with two small networks; and what their labels must be."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from PIL import Image

from anchornet.bundle import load_bundle
from anchornet.cascade.run import run_cascade
from anchornet.images.decode import decode
from anchornet.images.preprocess import Preprocessing
from anchornet.images.tensors import normalise
from anchornet.models.weights import save_weights
from anchornet.report.label_counts import label_tables
from anchornet.units import GIGA
from jobs import calibrate, evaluate, label
from jobs.shell.run_folder import RunFolder
from tests.small_classifiers import CLASSES, FEEDS, LARGE, networks, picture, write_weights
from tests.tiny_bundle import tiny_networks

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES, NUM_HELD_OUT = 40, 80


def commands() -> list[list[str]]:
    """The ``python -m jobs...`` lines of the section of that name."""
    section = (ROOT / "docs" / "bring-your-own.md").read_text().split("## Four commands")[1].split("\n## ")[0]
    return [shlex.split(line)[2:] for line in re.findall(r"^python -m jobs\..*$", section, re.MULTILINE)]


def own_networks() -> list[str]:
    """What a test changes in the import: small networks of one's own, of which nobody says how they are fed."""
    values = []
    for index, (role, feed) in enumerate(FEEDS.items()):
        member = f"system.members.{index}"
        values.append(f"{member}.architecture=tests.small_classifiers:{role}")
        values += [f"{member}.preprocessing.{name}={value}" for name, value in said(feed).items()]
    return [part for value in values for part in ("--set", value)]


def said(feed: Preprocessing) -> dict[str, object]:
    """How a network is fed, as a configuration says it."""
    pixels = {"side": feed.crop, "resize": feed.resize, "interpolation": feed.interpolation}
    return {**pixels, "mean": list(feed.mean), "std": list(feed.std)}


@pytest.fixture(scope="module")
def home(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: weights, class names, images to label, labelled ones sorted by what the large network says."""
    home = tmp_path_factory.mktemp("home")
    write_weights(home)
    (home / "classes.txt").write_text("\n".join(CLASSES))
    large = networks()["large"]
    for seed in range(NUM_IMAGES + NUM_HELD_OUT):
        rgb = picture(1000 + seed)
        folder = home / "data" / "images"
        if seed >= NUM_IMAGES:
            folder = home / "data" / "validation" / CLASSES[answer(large, LARGE, rgb)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(folder / f"{seed}.png")
    return home


def answer(network: object, feed: Preprocessing, rgb: np.ndarray) -> int:
    with torch.inference_mode():
        return int(network(normalise(torch.from_numpy(feed(rgb)[None]).permute(0, 3, 1, 2), feed)).argmax())  # type: ignore[operator]


@pytest.fixture(scope="module")
def ran(home: Path) -> list[str]:
    """The modules whose commands were run in the user's folder, each of which ended well."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for module, *arguments in commands():
            replaced = [
                part.replace("DATA", "data")
                .replace("s3://BUCKET/PREFIX", "data/images")
                .replace("mobilenet_v3_small.pth", "small.pth")
                .replace("resnet50.pth", "large.safetensors")
                .replace("jobs/configs", str(ROOT / "jobs" / "configs"))
                for part in arguments
            ]
            if module == "jobs.import_weights":
                replaced += own_networks()
            if module == "jobs.label":
                replaced = [part.replace("=0.5", f"={middle_gflops(home)}") for part in replaced]
            assert importlib.import_module(module).main(replaced) == 0, " ".join([module, *replaced])
            seen.append(module)
    return seen


def middle_gflops(home: Path) -> float:
    frontier = load_bundle(str(home / "runs" / "models" / "bundle")).frontier
    assert frontier is not None
    return 0.5 * (frontier.minimum_gflops + frontier.maximum_gflops)


def labels(folder: Path) -> pa.Table:
    return pa.concat_tables(label_tables(RunFolder(str(folder)).labels)).sort_by("image_id")


def test_two_weight_files_become_labels_in_four_commands(ran: list[str], home: Path) -> None:
    assert ran == ["jobs.import_weights", "jobs.calibrate", "jobs.label", "jobs.label"]
    rows = labels(home / "runs" / "models" / "label")
    assert rows["status"].to_pylist() == ["ok"] * NUM_IMAGES
    assert set(rows["exit"].to_pylist()) == {"small", "large"}
    budget = json.loads(Path(RunFolder(str(home / "runs" / "models" / "label")).report).read_text())["budget"]
    assert budget["spent_gflops"] <= budget["asked_gflops"]
    assert budget["in_labels_gflops"] == pytest.approx(budget["spent_gflops"])
    content = yaml.safe_load((home / "runs" / "models" / "bundle" / "bundle.yaml").read_text())
    assert list(content["combination"]["weights"]) == ["small", "large"]
    report = json.loads((home / "runs" / "models" / "calibrate" / "report.json").read_text())
    assert report["combination"] == content["combination"]


def test_fixed_labels_are_those_of_a_direct_call(ran: list[str], home: Path, tmp_path: Path) -> None:
    asked = middle_gflops(home)
    bundle = load_bundle(str(home / "runs" / "models" / "bundle"))
    told = [f"run.folder={tmp_path}", f"bundle={home / 'runs' / 'models' / 'bundle'}"]
    told += [f"input.path={home / 'data' / 'images'}", f"budget.gflops_per_image={asked}", "budget.mode=fixed"]
    command = [part for value in told for part in ("--set", value)]
    assert label.main(command) == 0
    rows = labels(tmp_path)
    pixels = np.stack([bundle.preprocessing(decode(Path(uri).read_bytes())) for uri in rows["uri"].to_pylist()])
    assert bundle.frontier is not None
    limits = bundle.frontier.at(asked).thresholds_for(rows["image_id"].to_numpy())
    expected = run_cascade(bundle.cascade(), pixels, limits)
    assert rows["label_id"].to_pylist() == expected.label_id.tolist()
    assert rows["exit"].to_pylist() == [("small", "large")[k] for k in expected.exit]
    np.testing.assert_array_equal((rows["gflops"].to_numpy() * GIGA).round(), expected.macs)
    assert label.main(command) == 0  # nothing is left to do
    assert labels(tmp_path).equals(rows)


def test_members_stand_alone_beside_the_cascade(ran: list[str], home: Path, tmp_path: Path) -> None:
    told = [f"run.folder={tmp_path}", f"bundle={home / 'runs' / 'models' / 'bundle'}"]
    told += [f"data.path={home / 'data' / 'validation'}"]
    assert evaluate.main([part for value in told for part in ("--set", value)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["exit"] for row in report["exits"]] == ["small", "large"]
    alone = report["references"][-1]
    assert [row["reference"] for row in report["references"]] == ["combined by the rule last"] * 2 + ["large alone"]
    assert alone["accuracy"] == 1.0
    assert alone["gflops"] < report["exits"][-1]["gflops"]


@pytest.fixture(scope="module")
def behind_anchornet(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the section on AnchorNet was followed: the bundle, calibrated, and labels."""
    section = (ROOT / "docs" / "bring-your-own.md").read_text().split("## AnchorNet before them")[1].split("\n## ")[0]
    [(module, *arguments)] = [
        shlex.split(line)[2:] for line in re.findall(r"^python -m jobs\..*$", section, re.MULTILINE)
    ]
    folder = tmp_path_factory.mktemp("behind")
    told = [f"bundle={folder / 'bundle'}", f"classes={home / 'classes.txt'}"]
    for name, network in {**tiny_networks(), "full": networks()["large"]}.items():
        save_weights(str(folder / f"{name}.safetensors"), network)
    told.append(f"system.anchornet.weights={folder / 'anchornet.safetensors'}")
    for index, role in enumerate(("glance", "patch", "full")):
        member = f"system.members.{index}"
        architecture = "tests.tiny_bundle:tiny_classifier" if role != "full" else "tests.small_classifiers:large"
        told += [f"{member}.architecture={architecture}", f"{member}.weights={folder / role}.safetensors"]
    told += [f"system.members.2.preprocessing.{name}={value}" for name, value in said(LARGE).items()]
    arguments = [part.replace("jobs/configs", str(ROOT / "jobs" / "configs")) for part in arguments]
    assert importlib.import_module(module).main([*arguments, *sets(told)]) == 0
    pool, bundle = "pool.batch_size=16", f"bundle={folder / 'bundle'}"
    where = f"data.path={home / 'data' / 'validation'}"
    assert calibrate.main(sets([f"run.folder={folder / 'calibrate'}", bundle, where, pool, "drop_exits=false"])) == 0
    return folder


def sets(values: list[str]) -> list[str]:
    return [part for value in values for part in ("--set", value)]


def test_members_behind_anchornet_label_what_a_direct_call_does(behind_anchornet: Path, home: Path) -> None:
    folder = behind_anchornet
    bundle = load_bundle(str(folder / "bundle"))
    assert bundle.frontier is not None
    names = ("anchor", "glance", "patch1", "patch2", "full")
    assert bundle.frontier.exits == names
    asked = 0.5 * (bundle.frontier.minimum_gflops + bundle.frontier.maximum_gflops)
    told = [f"run.folder={folder / 'label'}", f"bundle={folder / 'bundle'}", f"input.path={home / 'data' / 'images'}"]
    assert label.main(sets([*told, f"budget.gflops_per_image={asked}", "budget.mode=fixed"])) == 0
    rows = labels(folder / "label")
    pixels = np.stack([bundle.preprocessing(decode(Path(uri).read_bytes())) for uri in rows["uri"].to_pylist()])
    limits = bundle.frontier.at(asked).thresholds_for(rows["image_id"].to_numpy())
    expected = run_cascade(bundle.cascade(), pixels, limits)
    assert rows["label_id"].to_pylist() == expected.label_id.tolist()
    assert rows["exit"].to_pylist() == [names[k] for k in expected.exit]
    assert len(set(rows["exit"].to_pylist())) > 1
    np.testing.assert_array_equal((rows["gflops"].to_numpy() * GIGA).round(), expected.macs)
    assert {len(boxes) for boxes in rows["boxes"].to_pylist()} == {2}
