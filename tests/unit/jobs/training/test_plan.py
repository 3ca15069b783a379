"""A training before it starts: where its files lie, what makes it this run, and whether it could ever start."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from anchornet.data.listing import DatasetSettings
from anchornet.images.augment import CropSettings
from anchornet.models.card import ModelCard, save_model
from anchornet.models.training_settings import ClassifierRecipe
from anchornet.systems.anchornet.network import AnchorNet
from anchornet.systems.anchornet.settings import ARCHITECTURE, AnchorNetRecipe, GlanceRecipe, PatchRecipe
from anchornet.systems.registry import RecipeSettings
from jobs import train
from jobs.resources.capacity import Capacity, Resources
from jobs.settings.common import ClusterSettings, RunSettings
from jobs.settings.train import InitSettings, TrainConfig, WorkerSettings
from jobs.training.plan import TrainPlan, check_resources, identity, plan_training, too_many_unreadable, with_gpu
from tests.small_images import write_folders

QUICK = "tests.small_networks:quick"
REMOTE = ClusterSettings(address="head:6379")
HELD_OUT = DatasetSettings(path="held_out")


@pytest.fixture(autouse=True)
def _nobody_submitted_this(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster by address is one that a test names."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def config(recipe: RecipeSettings | None = None, **changes: Any) -> TrainConfig:
    settings = {"run": RunSettings(folder="runs/r"), "data": DatasetSettings(path="train")}
    return TrainConfig(recipe=recipe or AnchorNetRecipe(), **(settings | changes))


class TestNetworksThatDoNotImport:
    """A user's slip is said in a second, not after Ray has started its processes and workers have died."""

    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        (tmp_path / "broken_network.py").write_text("import torch\nprint(undefined)\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        return "broken_network:net"

    @pytest.mark.parametrize("recipe", [GlanceRecipe, ClassifierRecipe])
    @pytest.mark.parametrize(
        ("architecture", "message"),
        [
            ("no_such_module_here:net", "cannot import 'no_such_module_here' .*; put it on the Python path"),
            ("tests.small_networks:quik", "no function 'quik' there, did you mean 'quick'"),
            ("broken_network:net", "importing 'broken_network' ends in NameError: .*; mend the module"),
            ("resnet5", "unknown classifier 'resnet5', did you mean 'resnet50'"),
        ],
    )
    def test_they_are_refused_where_the_training_is_planned(
        self, module: str, recipe: type[GlanceRecipe | ClassifierRecipe], architecture: str, message: str
    ) -> None:
        kind = "classifier" if recipe is ClassifierRecipe else "anchornet.glance"
        with pytest.raises(ValueError, match=message):
            plan_training(config(recipe(kind=kind, architecture=architecture)))

    def test_the_job_ends_with_code_2_and_no_ray(
        self, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started"))
        settings = [f"run.folder={tmp_path / 'run'}", "recipe.kind=classifier", f"recipe.architecture={module}"]
        settings.append(f"data.path={write_folders(str(tmp_path / 'images'), 4)}")
        assert train.main([part for setting in settings for part in ("--set", setting)]) == 2
        assert "error: classifier 'broken_network:net': importing 'broken_network' ends in NameError" in (
            capsys.readouterr().err
        )
        assert not (tmp_path / "run").exists()


class TestResources:
    """What can never start is refused with the numbers; Ray would wait for it without a word."""

    @pytest.mark.parametrize(
        ("count", "cpus", "validation", "need"),
        [
            (1, 1.0, None, 1 + 1.0),
            (1, 1.0, HELD_OUT, 1 + 1.0 + 0.5),
            (3, 2.0, HELD_OUT, 6 + 1.0 + 0.5),
            ((1, 4), 0.5, None, 2 + 1.0),
            (0, 1.0, HELD_OUT, 1.0 + 0.5),
        ],
        ids=["a worker", "validation reads too", "several workers", "as many as may come", "no process of its own"],
    )
    def test_workers_leave_cpus_for_reading(
        self, count: int | tuple[int, ...], cpus: float, validation: DatasetSettings | None, need: float
    ) -> None:
        cfg = config(workers=WorkerSettings(count=count, cpus=cpus), validation=validation)
        check_resources(cfg, Capacity.fixed(need))
        said = rf"x {cpus:g} CPUs and the reading of images need {need:g} logical CPUs and 0 GPUs, Ray has {need - 0.25:g} "
        with pytest.raises(ValueError, match=said):
            check_resources(cfg, Capacity.fixed(need - 0.25))

    def test_the_refusal_names_every_setting_that_helps(self) -> None:
        cfg = config(workers=WorkerSettings(count=9))
        with pytest.raises(
            ValueError, match=r"9 workers x 1 CPUs .* workers\.count or workers\.cpus, raise cluster\.local_cpus"
        ):
            check_resources(cfg, Capacity.fixed(4))

    @pytest.mark.parametrize(
        ("count", "fewest"), [(2, 2), ((1, 4), 1), ((3, 4), 3)], ids=["all", "those it starts with", "three of four"]
    )
    def test_the_fewest_workers_have_a_gpu_each(self, count: int | tuple[int, ...], fewest: int) -> None:
        cfg = config(workers=WorkerSettings(count=count, use_gpu=True))
        check_resources(cfg, Capacity.fixed(100, fewest))
        with pytest.raises(ValueError, match=rf"and {fewest} GPUs, Ray has 100 logical CPUs and {fewest - 1} GPUs"):
            check_resources(cfg, Capacity.fixed(100, fewest - 1))

    def test_gpus_are_not_asked_for_where_they_are_not_wanted(self) -> None:
        check_resources(config(workers=WorkerSettings(count=2, use_gpu=False)), Capacity.fixed(100))
        check_resources(config(workers=WorkerSettings(count=2)), Capacity.fixed(100))

    def test_what_a_cluster_may_grow_to_is_waited_for_aloud(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "jobs")
        empty = Capacity(Resources(0, 0), Resources(100, 8))
        check_resources(config(workers=WorkerSettings(count=(2, 9))), empty)
        assert caplog.messages == [
            "waiting for the cluster to grow: 2 workers x 1 CPUs and the reading of images need 3 logical CPUs and 2 GPUs, "
            "it has 0 logical CPUs and 0 GPUs"
        ]
        with pytest.raises(
            ValueError, match=r"need 10 .* and 9 GPUs, the cluster may grow to 100 logical CPUs and 8 GPUs"
        ):
            check_resources(config(workers=WorkerSettings(count=9)), empty)

    def test_what_fits_is_not_worth_a_word(self, caplog: pytest.LogCaptureFixture) -> None:
        check_resources(config(cluster=REMOTE), Capacity.fixed(4))
        assert not caplog.messages

    @pytest.mark.parametrize(
        ("wish", "now", "most", "gets"),
        [
            (None, 0, 0, False),
            (None, 0.5, 0.5, False),
            (None, 1, 1, True),
            (True, 0, 0, True),
            (False, 8, 8, False),
            (None, 0, 8, True),
            (None, 1, math.inf, True),
        ],
    )
    def test_workers_take_gpus_when_there_are_or_will_be_any_unless_told_otherwise(
        self, wish: bool | None, now: float, most: float, gets: bool
    ) -> None:
        assert with_gpu(WorkerSettings(use_gpu=wish), Capacity(Resources(4, now), Resources(4, most))) is gets

    def test_nobody_guesses_whether_gpus_will_come(self) -> None:
        empty = Capacity(Resources(4, 0), Resources(math.inf, math.inf))
        with pytest.raises(
            ValueError, match=r"has no GPU now; set workers\.use_gpu to true to wait .* to false to train"
        ):
            with_gpu(WorkerSettings(), empty)
        assert with_gpu(WorkerSettings(use_gpu=False), empty) is False


class TestPlan:
    """Ray Train gives each worker a working directory of its own, so nothing in a plan is relative to one."""

    def test_every_path_is_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        plan = plan_training(config(init=InitSettings(model="runs/before"), validation=HELD_OUT))
        assert plan.config.run.folder == str(tmp_path / "runs/r")
        assert plan.config.data.path == str(tmp_path / "train")
        assert plan.config.validation == DatasetSettings(path=str(tmp_path / "held_out"))
        assert plan.config.init.model == str(tmp_path / "runs/before")
        assert plan.checkpoints == str(tmp_path / "runs/r" / "checkpoints")
        weights = plan_training(config(init=InitSettings(weights="resnet50.pth"))).config.init
        assert (weights.model, weights.weights) == (None, str(tmp_path / "resnet50.pth"))

    def test_uris_stay_as_they_are(self) -> None:
        plan = plan_training(config(run=RunSettings(folder="s3://b/r"), data=DatasetSettings(path="s3://b/d")))
        assert (plan.config.run.folder, plan.config.data.path) == ("s3://b/r", "s3://b/d")
        assert plan.checkpoints == "s3://b/r/checkpoints"

    def test_a_recipe_without_frozen_networks_takes_its_classes_from_the_data(self) -> None:
        assert plan_training(config(ClassifierRecipe(kind="classifier", architecture=QUICK))).classes == ()
        assert plan_training(config()).classes == ()

    def test_a_recipe_finds_the_models_in_the_runs_it_names_and_takes_their_classes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        save_model(
            "runs/a/model", AnchorNet(2), ModelCard(role="anchornet", architecture=ARCHITECTURE, classes=("x", "y"))
        )
        plan = plan_training(config(PatchRecipe(kind="anchornet.patch", architecture=QUICK, anchornet="runs/a")))
        assert isinstance(plan.recipe, PatchRecipe)
        assert plan.recipe.anchornet == str(tmp_path / "runs/a/model")
        assert plan.recipe.glance is None
        assert plan.classes == ("x", "y")

    @pytest.mark.parametrize(("count", "here"), [(0, True), (1, False), ((1, 2), False)])
    def test_no_workers_means_the_drivers_own_process(self, count: int | tuple[int, ...], here: bool) -> None:
        assert TrainPlan(config=config(workers=WorkerSettings(count=count))).in_process is here


class TestIdentity:
    """A run folder holds one run: what decides its result is compared, everything else may change between starts."""

    @staticmethod
    def of(classes: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
        return identity(TrainPlan(config=config(**changes), classes=classes))

    @pytest.mark.parametrize(
        "changes",
        [
            {"data": DatasetSettings(path="other")},
            {"data": DatasetSettings(path="train", limit=10)},
            {"validation": HELD_OUT},
            {"image_size": 128},
            {"crop": CropSettings(size=96)},
            {"init": InitSettings(weights="w.pth")},
            {"recipe": GlanceRecipe(kind="anchornet.glance", architecture=QUICK)},
            {"run": RunSettings(folder="runs/r", seed=1)},
            {"workers": WorkerSettings(count=0)},
            {"classes": ("x", "y")},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_another_result_is_another_run(self, changes: dict[str, Any]) -> None:
        assert self.of(**changes) != self.of()

    @pytest.mark.parametrize(
        "changes",
        [
            {"run": RunSettings(folder="elsewhere")},
            {"workers": WorkerSettings(count=4, cpus=2, max_failures=9)},
            {"cluster": REMOTE},
            {"max_unreadable_fraction": 0.5},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_how_it_is_computed_may_change(self, changes: dict[str, Any]) -> None:
        assert self.of(**changes) == self.of()

    def test_a_run_may_be_given_more_epochs_and_nothing_else_of_its_schedule(self) -> None:
        recipe = AnchorNetRecipe()
        longer = replace(recipe, training=replace(recipe.training, epochs=recipe.training.epochs + 5))
        faster = replace(recipe, training=replace(recipe.training, learning_rate=0.5 * recipe.training.learning_rate))
        assert self.of(recipe=longer) == self.of()
        assert self.of(recipe=faster) != self.of()


@pytest.mark.parametrize(
    ("fraction", "unreadable", "stop"), [(0.1, 2, False), (0.1, 3, True), (0.0, 0, False), (0, 1, True)]
)
def test_a_run_stops_above_the_share_of_unreadable_images_and_not_at_it(
    fraction: float, unreadable: int, stop: bool
) -> None:
    plan = TrainPlan(config=config(max_unreadable_fraction=fraction), num_images=20)
    assert too_many_unreadable(plan, unreadable) is stop
