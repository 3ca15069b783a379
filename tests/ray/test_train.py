"""The train jobs end to end, on a handful of generated images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from anchornet.files import storage
from anchornet.models.card import load_model
from anchornet.systems.anchornet.settings import ARCHITECTURE
from jobs import train
from tests.small_images import CLASSES, write_folders, write_parquet

pytestmark = pytest.mark.ray

QUICK = "tests.small_networks:quick"
NUM_IMAGES, NUM_HELD_OUT = 24, 7


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders ``train`` and ``held_out``, and ``train.parquet`` with one image that cannot be decoded."""
    folder = tmp_path_factory.mktemp("data")
    write_folders(str(folder / "train"), NUM_IMAGES)
    write_folders(str(folder / "held_out"), NUM_HELD_OUT)
    write_parquet(str(folder / "train.parquet"), NUM_IMAGES, damaged=[5])
    return folder


def arguments(run: Path | str, data: Path | str, **overrides: Any) -> list[str]:
    values = {
        "run.folder": run,
        "data.path": storage.join(str(data), "train"),
        "validation.path": storage.join(str(data), "held_out"),
        "recipe.kind": "anchornet.anchornet",
        "recipe.training.epochs": 1,
        "recipe.training.batch_size": 12,
        "crop.size": 96,
        "workers.max_failures": 0,
        **{name.replace("__", "."): value for name, value in overrides.items()},
    }
    return [part for name, value in values.items() if value is not None for part in ("--set", f"{name}={value}")]


def metrics(run: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in storage.read_bytes(storage.join(str(run), "metrics.jsonl")).splitlines()]


def is_count(fraction: float, of: int) -> bool:
    return round(fraction * of) == pytest.approx(fraction * of)


@pytest.fixture(scope="module")
def anchornet_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("anchornet")
    assert train.main(arguments(run, data)) == 0
    return run


@pytest.fixture(scope="module")
def glance_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("glance")
    assert train.main(arguments(run, data, recipe__kind="anchornet.glance", recipe__architecture=QUICK)) == 0
    return run


def test_anchornet_leaves_a_model_metrics_and_a_report(anchornet_run: Path) -> None:
    module, card = load_model(str(anchornet_run / "model"))
    assert (card.role, card.architecture, card.classes) == ("anchornet", ARCHITECTURE, CLASSES)
    assert module.fc.out_features == 2
    [line] = metrics(anchornet_run)
    assert (line["epoch"], line["train/learning_rate"], line["workers"]) == (0, 0.1, 1)
    assert is_count(line["train/accuracy"], NUM_IMAGES)
    assert is_count(line["validation/accuracy"], NUM_HELD_OUT)
    assert line["data/unreadable_images"] == 0
    assert line["train/images_per_s"] > 0
    report = json.loads((anchornet_run / "report.json").read_text())
    assert (report["epochs"], report["kept_epoch"]) == (1, 0)
    assert card.metrics["validation/accuracy"] == line["validation/accuracy"]


def test_a_finished_run_returns_at_once(anchornet_run: Path, data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in anchornet_run.rglob("*") if path.suffix in {".json", ".jsonl"}}
    assert train.main(arguments(anchornet_run, data)) == 0
    untouched = [path for path in before if path.name != "provenance.json"]
    assert all(path.stat().st_mtime_ns == before[path] for path in untouched)


def test_patches_are_validated_as_they_will_be_used(
    anchornet_run: Path, glance_run: Path, data: Path, tmp_path: Path
) -> None:
    values = {"recipe.kind": "anchornet.patch", "recipe.architecture": QUICK}
    values |= {"recipe.anchornet": anchornet_run, "recipe.glance": glance_run}
    options = {"crop__size": 224, "recipe__num_patches": 2, "init__model": glance_run}
    assert train.main(arguments(tmp_path, data, **values, **options)) == 0
    [line] = metrics(tmp_path)
    names = ["patches_1", "patches_2", "glance", "glance_patches_1", "glance_patches_2"]
    assert all(is_count(line[f"validation/accuracy_{name}"], NUM_HELD_OUT) for name in names)
    assert is_count(line["train/accuracy"], 2 * NUM_IMAGES)
    assert line["validation/accuracy_glance"] == metrics(glance_run)[-1]["validation/accuracy"]
    assert load_model(str(tmp_path / "model"))[1].role == "patch"


@pytest.mark.parametrize(
    ("workers", "told"), [(0, "^broken on demand"), (1, "training stopped: RuntimeError: broken on demand")]
)
def test_an_interrupted_run_goes_on_by_the_same_command(
    workers: int, told: str, data: Path, tmp_path: Path, worker_folder: Path
) -> None:
    own = {"recipe__kind": "classifier", "recipe__architecture": "tests.small_networks:breaking"}
    command = arguments(tmp_path, data, **own, recipe__training__epochs=2, workers__count=workers)
    (worker_folder / "break").touch()
    with pytest.raises(RuntimeError, match=told):
        train.main(command)
    assert not (tmp_path / "model").exists()
    [first] = metrics(tmp_path)
    (worker_folder / "break").unlink()
    assert train.main(command) == 0
    lines = metrics(tmp_path)
    assert [line["epoch"] for line in lines] == [0, 1]
    assert lines[0] == first
    assert lines[1]["train/learning_rate"] == pytest.approx(0.005)
    assert (tmp_path / "model").exists()


def test_in_the_drivers_process_a_network_learns_the_same(glance_run: Path, data: Path, tmp_path: Path) -> None:
    own = {"recipe__kind": "anchornet.glance", "recipe__architecture": QUICK, "workers__count": 0}
    assert train.main(arguments(tmp_path, data, **own)) == 0
    same = ("train/loss", "train/accuracy", "validation/accuracy", "workers")
    assert [metrics(tmp_path)[0][name] for name in same] == [metrics(glance_run)[0][name] for name in same]
    mine, theirs = (load_model(str(run / "model"))[0].state_dict() for run in (tmp_path, glance_run))
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_two_workers_share_a_parquet_file_and_every_held_out_image_counts(data: Path, tmp_path: Path) -> None:
    options = {"data__path": data / "train.parquet", "max_unreadable_fraction": 0.1, "workers__count": 2}
    assert (
        train.main(arguments(tmp_path, data, recipe__kind="anchornet.glance", recipe__architecture=QUICK, **options))
        == 0
    )
    [line] = metrics(tmp_path)
    assert line["workers"] == 2
    assert line["data/unreadable_images"] == 1
    assert is_count(line["train/accuracy"], NUM_IMAGES - 2)  # 23 readable, of which both workers get as many
    assert is_count(line["validation/accuracy"], NUM_HELD_OUT)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["unreadable_examples"]) == [f"{data / 'train.parquet'}#5"]


def test_too_many_unreadable_images_stop_the_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"data__path": data / "train.parquet", "max_unreadable_fraction": 0.01}
    assert (
        train.main(arguments(tmp_path, data, recipe__kind="anchornet.glance", recipe__architecture=QUICK, **options))
        == 2
    )
    assert "1 of 31 images cannot be used, such as" in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()


def test_the_same_seed_gives_the_same_network(tmp_path: Path) -> None:
    write_folders(str(tmp_path / "train"), 280)  # three blocks, decoded at the same time
    write_folders(str(tmp_path / "held_out"), NUM_HELD_OUT)
    lines, weights = [], []
    for name in ("first", "second"):
        options = {"recipe__training__epochs": 2, "recipe__training__batch_size": 32, "workers__threads": 1}
        options |= {"recipe__kind": "anchornet.glance", "recipe__architecture": QUICK}
        assert train.main(arguments(tmp_path / name, tmp_path, **options)) == 0
        lines.append([(line["train/loss"], line["validation/accuracy"]) for line in metrics(tmp_path / name)])
        weights.append(hashlib.sha256((tmp_path / name / "model" / "weights.safetensors").read_bytes()).hexdigest())
    assert lines[0] == lines[1]
    assert lines[0][0] != lines[0][1]
    assert weights[0] == weights[1]


@pytest.mark.s3
def test_data_and_run_folder_may_lie_in_s3(s3_bucket: str) -> None:
    write_folders(storage.join(s3_bucket, "data/train"), 8)
    run = storage.join(s3_bucket, "run")
    options = {"recipe__kind": "anchornet.glance", "recipe__architecture": QUICK, "validation__path": None}
    assert train.main(arguments(run, storage.join(s3_bucket, "data"), **options)) == 0
    assert [line["epoch"] for line in metrics(run)] == [0]
    assert load_model(storage.join(run, "model"))[1].classes == CLASSES


class TestRefusals:
    """What cannot work is said before anything is started: exit code 2 and one line."""

    @staticmethod
    def refused(main: Any, command: Sequence[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(command) == 2
        assert reason in capsys.readouterr().err

    def test_more_workers_than_cpus(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = arguments(tmp_path, data, workers__count="[1,8]")
        self.refused(
            train.main,
            command,
            "8 workers x 1 CPUs and the reading of images need 9.5 logical CPUs and 0 GPUs, Ray has 4",
            capsys,
        )

    def test_gpus_where_there_are_none(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = arguments(tmp_path, data, workers__use_gpu="true")
        self.refused(train.main, command, "and 1 GPUs, Ray has 4 logical CPUs and 0 GPUs", capsys)

    def test_a_run_folder_of_another_run(
        self, anchornet_run: Path, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = arguments(anchornet_run, data, data__path=data / "held_out", recipe__training__epochs=2)
        self.refused(train.main, command, "was started with data", capsys)

    def test_a_finished_run_of_another_network(
        self, anchornet_run: Path, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (anchornet_run / "config.yaml").read_bytes()
        command = arguments(anchornet_run, data, recipe__kind="classifier", recipe__architecture=QUICK)
        self.refused(train.main, command, "was started with recipe", capsys)
        assert (anchornet_run / "config.yaml").read_bytes() == before

    def test_weights_that_do_not_exist(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = arguments(
            tmp_path,
            data,
            recipe__kind="classifier",
            recipe__architecture=QUICK,
            init__weights=tmp_path / "resnet50.pth",
        )
        self.refused(train.main, command, "resnet50.pth does not exist; give a file that does, or leave it out", capsys)

    def test_patches_without_anchornet(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = arguments(tmp_path, data, recipe__kind="anchornet.patch", recipe__architecture=QUICK)
        self.refused(train.main, command, "recipe.anchornet is required", capsys)

    def test_patches_that_can_fall_short(
        self, anchornet_run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = arguments(
            tmp_path,
            data,
            recipe__kind="anchornet.patch",
            recipe__architecture=QUICK,
            recipe__anchornet=anchornet_run,
            crop__size=224,
            recipe__iou_threshold=0.05,
        )
        self.refused(train.main, command, "patches", capsys)
