"""What the driver of a training decides, without Ray: when to start, what to ask for, which epoch to keep, how to end."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch
from hypothesis import given
from hypothesis import strategies as st

from anchornet.data.listing import DatasetSettings
from anchornet.images.preprocess import Preprocessing
from anchornet.models.card import load_model
from anchornet.models.training_settings import ClassifierRecipe
from anchornet.systems.anchornet.settings import AnchorNetRecipe
from jobs.resources.capacity import Capacity
from jobs.settings.common import RunSettings
from jobs.settings.train import InitSettings, TrainConfig, WorkerSettings
from jobs.shell.run_folder import RunFolder
from jobs.training import driver
from jobs.training.local_checkpoints import LocalCheckpoints
from jobs.training.loop import STATE_FILE
from jobs.training.plan import TrainPlan, identity
from tests.small_images import encode, write_folders, write_parquet
from tests.small_networks import quick

CLASSES = ("x", "y")


def a_plan(folder: Path, *, count: int = 1, epochs: int = 3, **changes: Any) -> TrainPlan:
    recipe = ClassifierRecipe(kind="classifier", architecture="tests.small_networks:quick")
    recipe = replace(recipe, training=replace(recipe.training, epochs=epochs, warmup_epochs=0))
    cfg = TrainConfig(
        run=RunSettings(folder=str(folder)),
        recipe=recipe,
        data=DatasetSettings(path=str(folder / "data")),
        workers=WorkerSettings(count=count),
        max_unreadable_fraction=0.1,
    )
    return TrainPlan(config=replace(cfg, **changes), classes=CLASSES, num_images=100)


class TestStart:
    @pytest.fixture(autouse=True)
    def _without_ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the run would start Ray it ends here, with ConnectionError."""

        @contextlib.contextmanager
        def session(*arguments: Any) -> Iterator[None]:
            raise ConnectionError
            yield

        monkeypatch.setattr(driver, "ray_session", session)

    @pytest.mark.parametrize(("done", "wanted"), [(3, 3), (3, 2)])
    def test_a_finished_run_starts_nothing(self, tmp_path: Path, done: int, wanted: int) -> None:
        RunFolder(str(tmp_path)).remember(identity(a_plan(tmp_path)))
        (tmp_path / "report.json").write_text(json.dumps({"epochs": done}))
        assert driver.run_training(a_plan(tmp_path, epochs=wanted)) == 0

    def test_a_finished_run_goes_on_for_more_epochs(self, tmp_path: Path) -> None:
        (tmp_path / "report.json").write_text(json.dumps({"epochs": 3}))
        with pytest.raises(ConnectionError):
            driver.run_training(a_plan(tmp_path, epochs=4))

    def test_a_run_that_was_never_finished_starts(self, tmp_path: Path) -> None:
        with pytest.raises(ConnectionError):
            driver.run_training(a_plan(tmp_path))

    def test_another_run_is_refused_although_this_one_is_finished(self, tmp_path: Path) -> None:
        RunFolder(str(tmp_path)).remember(identity(a_plan(tmp_path, image_size=96)))
        (tmp_path / "report.json").write_text(json.dumps({"epochs": 3}))
        with pytest.raises(ValueError, match=r"was started with image_size 96, got 224; choose another run\.folder"):
            driver.run_training(a_plan(tmp_path))

    def test_classes_that_the_data_will_name_are_no_difference(self, tmp_path: Path) -> None:
        RunFolder(str(tmp_path)).remember(identity(a_plan(tmp_path)))
        (tmp_path / "report.json").write_text(json.dumps({"epochs": 3}))
        assert driver.run_training(replace(a_plan(tmp_path), classes=())) == 0
        with pytest.raises(ValueError, match="was started with classes"):
            driver.run_training(replace(a_plan(tmp_path), classes=("y", "x")))


@pytest.mark.parametrize("name", ["model", "weights"])
def test_a_start_that_is_not_there_is_refused_before_anything_is_listed(tmp_path: Path, name: str) -> None:
    plan = a_plan(tmp_path, init=InitSettings(**{name: str(tmp_path / "gone")}))
    with pytest.raises(
        ValueError, match=rf"init\.{name} .*gone does not exist; give a file that does, or leave it out"
    ):
        driver._open_data(plan)


class TestData:
    """What a run learns from, with data sets that only say what they were made of."""

    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        made: list[tuple[Any, ...]] = []
        monkeypatch.setattr(driver.dataset, "start_notes", lambda: "notes")
        monkeypatch.setattr(driver.dataset, "training_images", lambda *given: made.append(given) or "training")
        monkeypatch.setattr(driver.dataset, "validation_images", lambda *given: made.append(given) or "validation")
        return made

    def test_class_folders_come_shuffled_and_parquet_is_shuffled_in_a_buffer(
        self, tmp_path: Path, made: list[tuple[Any, ...]]
    ) -> None:
        write_folders(str(tmp_path / "data"), 6)
        folders, _, _ = driver._open_data(replace(a_plan(tmp_path), classes=()))
        assert (folders.classes, folders.num_images, folders.shuffle_buffer) == (("left", "right"), 6, 0)
        path = write_parquet(str(tmp_path / "data.parquet"), 8)
        in_groups, _, _ = driver._open_data(
            replace(a_plan(tmp_path, data=DatasetSettings(path=path), shuffle_buffer=77), classes=())
        )
        assert (in_groups.num_images, in_groups.shuffle_buffer) == (8, 77)

    def test_validation_images_have_the_classes_of_the_training_and_the_size_of_the_cascade(
        self, tmp_path: Path, made: list[tuple[Any, ...]]
    ) -> None:
        write_folders(str(tmp_path / "data"), 6)
        (tmp_path / "held_out" / "right").mkdir(parents=True)
        (tmp_path / "held_out" / "right" / "1.png").write_bytes(encode(1))
        held_out = DatasetSettings(path=str(tmp_path / "held_out"))
        plan, datasets, notes = driver._open_data(
            replace(a_plan(tmp_path, validation=held_out, image_size=96), classes=())
        )
        assert (datasets, notes) == ({"train": "training", "validation": "validation"}, "notes")
        assert plan.num_images == 7
        _, (found, preprocessing, told, _) = made
        assert (found.classes, found.blocks[0]["label"].to_pylist()) == (("left", "right"), [1])
        assert (preprocessing, told) == (Preprocessing.of_size(96), "notes")

    def test_a_resumed_run_draws_other_crops_than_those_it_has_seen(
        self, tmp_path: Path, made: list[tuple[Any, ...]]
    ) -> None:
        write_folders(str(tmp_path / "data"), 6)
        plan = replace(a_plan(tmp_path), classes=())
        driver._open_data(plan)
        (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}\n{"epoch": 1}\n')
        driver._open_data(plan)
        seeds = [seed for _, _, seed, _, _ in made]
        assert seeds == [driver._epoch_seed(0, 0), driver._epoch_seed(0, 2)]


@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 1000))
def test_every_start_draws_anew_and_the_same_start_draws_the_same(seed: int, done: int, later: int) -> None:
    first = driver._epoch_seed(seed, done)
    assert first == driver._epoch_seed(seed, done)
    assert 0 <= first < 2**32  # what Ray's own seeds may be
    assert (first == driver._epoch_seed(seed, later)) == (done == later)


class TestAsking:
    """What Ray Train is asked for."""

    def test_workers_hold_what_was_set(self, tmp_path: Path) -> None:
        workers = WorkerSettings(count=(1, 4), cpus=2, use_gpu=True, accelerator_type="H100")
        asked = driver.scaling(a_plan(tmp_path, workers=workers).config, Capacity.fixed(8, 4))
        assert asked.num_workers == (1, 4)
        assert asked.use_gpu is True
        assert asked.resources_per_worker == {"CPU": 2, "GPU": 1}
        assert asked.accelerator_type == "H100"

    @pytest.mark.parametrize(("gpus", "held"), [(0, {"CPU": 1}), (2, {"CPU": 1, "GPU": 1})])
    def test_a_gpu_is_taken_where_there_is_one(self, tmp_path: Path, gpus: float, held: dict[str, float]) -> None:
        asked = driver.scaling(a_plan(tmp_path).config, Capacity.fixed(8, gpus))
        assert asked.resources_per_worker == held
        assert asked.use_gpu is ("GPU" in held)

    def test_the_best_epoch_is_kept_and_crashes_are_forgiven_as_often_as_set(self, tmp_path: Path) -> None:
        asked = driver._run_config(a_plan(tmp_path, workers=WorkerSettings(max_failures=5)).config)
        assert (asked.name, asked.storage_path) == ("checkpoints", str(tmp_path))
        assert asked.failure_config is not None
        assert asked.failure_config.max_failures == 5
        assert asked.checkpoint_config is not None
        assert asked.checkpoint_config.num_to_keep == 1
        assert asked.checkpoint_config.checkpoint_score_attribute == "score"
        assert asked.checkpoint_config.checkpoint_score_order == "max"


class Trainer:
    """A trainer that ends as it is told to."""

    def __init__(self, end: BaseException | None) -> None:
        self.end = end

    def fit(self) -> str:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as Ray Train's controller takes it over
        if self.end is not None:
            raise self.end
        return "result"


class TestEnd:
    @pytest.fixture(autouse=True)
    def _handler_comes_back(self) -> Iterator[None]:
        def mine(number: int, frame: object) -> None:
            """What Ctrl-C does in the program that trains."""

        before = signal.signal(signal.SIGINT, mine)
        yield
        assert signal.signal(signal.SIGINT, before) is mine

    def test_a_run_that_ends_well_gives_its_result(self) -> None:
        assert driver._fit(Trainer(None)) == "result"  # type: ignore[arg-type,comparison-overlap]

    def test_an_abort_is_no_success(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            driver._fit(Trainer(SystemExit(0)))  # type: ignore[arg-type]

    def test_each_reason_of_failed_workers_is_said_once(self) -> None:
        failures: dict[int, Exception] = {0: ValueError("b"), 1: KeyError("a"), 2: ValueError("b")}
        end = Trainer(ray.train.WorkerGroupError("a long story", failures))
        with pytest.raises(RuntimeError, match=r"^training stopped: KeyError: 'a'; ValueError: b$"):
            driver._fit(end)  # type: ignore[arg-type]


class TestUnreadable:
    def test_what_was_left_out_is_said_up_to_a_number(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        plan = replace(a_plan(tmp_path), num_images=10_000)
        driver._check_readable(plan, {f"/{k}.jpg": "empty file" for k in range(50)})
        assert len(caplog.messages) == driver.SHOWN_REASONS
        assert caplog.messages[0] == "left out /0.jpg: empty file"

    def test_too_many_are_refused_with_an_example_and_the_rule(self, tmp_path: Path) -> None:
        reasons = {f"/{k}.jpg": "empty file" for k in range(11)}
        driver._check_readable(a_plan(tmp_path), dict(list(reasons.items())[:10]))
        said = r"11 of 100 images cannot be used, such as /0\.jpg \(empty file\); mend them or raise .* \(0\.1\)"
        with pytest.raises(ValueError, match=said):
            driver._check_readable(a_plan(tmp_path), reasons)


def state_of(epoch: int) -> dict[str, torch.Tensor]:
    """A state dict of ``quick`` in which every value is the number of its epoch."""
    return {name: torch.full_like(value, epoch) for name, value in quick(len(CLASSES)).state_dict().items()}


def checkpoint(folder: Path, epoch: int, score: float) -> tuple[ray.train.Checkpoint, dict[str, Any]]:
    folder.mkdir(parents=True)
    torch.save({"model": state_of(epoch), "optimizer": {}, "history": []}, folder / STATE_FILE)
    metrics = {"epoch": epoch, "validation/accuracy": score, "score": score}
    return ray.train.Checkpoint.from_directory(str(folder)), metrics


def a_result(folder: Path, scores: dict[int, float]) -> ray.train.Result:
    kept = [checkpoint(folder / f"epoch-{epoch}", epoch, score) for epoch, score in scores.items()]
    return ray.train.Result(metrics={}, checkpoint=None, error=None, path=str(folder), best_checkpoints=kept)


class TestBestEpoch:
    @pytest.mark.parametrize(
        ("scores", "best"),
        [({0: 0.5, 1: 0.7, 2: 0.6}, 1), ({0: 0.7, 2: 0.7, 1: 0.7}, 2), ({9: 0.1}, 9)],
        ids=["the highest score", "the later one of equals", "the only one"],
    )
    def test_it_is_the_one_kept_by_ray(self, tmp_path: Path, scores: dict[int, float], best: int) -> None:
        model, metrics = driver._best_epoch(a_plan(tmp_path), a_result(tmp_path, scores))
        assert metrics["epoch"] == best
        assert all((value == best).all() for value in model.values())

    def test_in_the_drivers_process_it_is_the_one_on_disk(self, tmp_path: Path) -> None:
        plan = a_plan(tmp_path, count=0)
        for epoch, score in enumerate([0.9, 0.2]):
            saved = {"model": state_of(epoch), "optimizer": {}, "history": []}
            LocalCheckpoints(plan.checkpoints).save(saved, {"epoch": epoch, "score": score})
        _, metrics = driver._best_epoch(plan, a_result(tmp_path / "ray", {1: 0.2}))
        assert metrics["epoch"] == 0

    def test_it_becomes_the_model_and_the_report_says_so(self, tmp_path: Path) -> None:
        reasons = {f"/{k}.jpg": "empty file" for k in range(25)}
        driver._save_best(a_plan(tmp_path), a_result(tmp_path / "ray", {0: 0.5, 1: 0.75}), reasons)
        module, card = load_model(str(tmp_path / "model"))
        assert all((value == 1).all() for value in module.state_dict().values())
        assert (card.role, card.classes) == ("classifier", CLASSES)
        assert card.preprocessing == Preprocessing()
        assert card.metrics == {"epoch": 1, "validation/accuracy": 0.75}  # the score is the same number once more
        assert card.training["recipe"]["architecture"] == "tests.small_networks:quick"
        report = json.loads((tmp_path / "report.json").read_text())
        assert (report["epochs"], report["kept_epoch"], report["unreadable_images"]) == (3, 1, 25)
        assert list(report["unreadable_examples"]) == [f"/{k}.jpg" for k in range(driver.SHOWN_REASONS)]

    def test_only_a_classifier_of_whole_images_says_how_it_is_fed(self, tmp_path: Path) -> None:
        config = a_plan(tmp_path, image_size=96).config
        assert driver.preprocessing_of(config) == Preprocessing.of_size(96)
        assert driver.preprocessing_of(replace(config, recipe=AnchorNetRecipe())) is None
