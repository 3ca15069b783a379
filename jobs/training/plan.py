"""One training run before it starts: what it teaches, what it was started for, where everything lies, if it can start."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

from anchornet.data.listing import DatasetSettings
from anchornet.files import config, storage
from anchornet.models.classifiers import check_architecture
from anchornet.models.training_settings import TrainingSettings
from anchornet.systems.registry import RecipeSettings, recipe_code
from jobs.data.dataset import READ_CPUS, SHUFFLE_CPUS
from jobs.resources.capacity import Capacity, Resources, Stall, check_fits, owners_of
from jobs.settings.train import TrainConfig, WorkerSettings
from jobs.shell.run_folder import RunFolder, model_in

CHECKPOINT_FOLDER = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """One training run, as every worker is told it."""

    config: TrainConfig
    classes: tuple[str, ...] = ()
    """Class names; empty takes them from the training data."""
    num_images: int = 0
    """Training and validation images, for the share that cannot be read."""
    num_training_images: int = 0
    """Those of an epoch."""
    shuffle_buffer: int = 0
    """Images shuffled within a worker; 0 when the data comes fully shuffled."""

    @property
    def in_process(self) -> bool:
        """True when the network learns in the driver's own process."""
        return self.config.workers.most == 0

    @property
    def checkpoints(self) -> str:
        """Folder of the run's checkpoints."""
        return RunFolder(self.config.run.folder).at(CHECKPOINT_FOLDER)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every training image is seen once, before unreadable ones are left out."""
        return max(1, -(-self.num_training_images // self.settings.batch_size))

    @property
    def recipe(self) -> RecipeSettings:
        """What is taught."""
        return self.config.recipe

    @property
    def settings(self) -> TrainingSettings:
        """Epochs, rates and the rest."""
        return self.config.recipe.training


def plan_training(cfg: TrainConfig) -> TrainPlan:
    """The plan of a run, with every path as workers understand it: Ray Train gives each a working directory of its own.

    Raises ValueError when the network that learns does not import, or those that the recipe needs do not fit together.
    """
    networks = {name: getattr(cfg.recipe, name) for name in cfg.recipe.folders}
    folders = {name: storage.absolute(model_in(uri)) for name, uri in networks.items() if uri is not None}
    cfg = replace(
        cfg,
        run=replace(cfg.run, folder=storage.absolute(cfg.run.folder)),
        data=_absolute_data(cfg.data),
        validation=_absolute_data(cfg.validation) if cfg.validation else None,
        init=replace(cfg.init, model=_absolute_or_none(cfg.init.model), weights=_absolute_or_none(cfg.init.weights)),
        recipe=replace(
            cast(Any, cfg.recipe), **folders
        ),  # each recipe says in ``folders`` which of its fields these are
    )
    check_architecture(cfg.recipe.architecture)  # here, and not only where the network is built: in a worker
    classes = recipe_code(cfg.recipe).check_recipe(cfg.recipe, cfg.crop.size)
    return TrainPlan(config=cfg, classes=classes or ())


def _absolute_data(data: DatasetSettings) -> DatasetSettings:
    return replace(data, path=storage.absolute(data.path))


def _absolute_or_none(uri: str | None) -> str | None:
    return None if uri is None else storage.absolute(uri)


def identity(plan: TrainPlan) -> dict[str, Any]:
    """What makes a run this run: all that it learns from and all that chooses the epoch to keep, but not how many there are.

    Scores of other validation images, or of none (then the epoch's number), must not be compared with each other.
    """
    cfg = plan.config
    sections = {name: config.to_dict(getattr(cfg, name)) for name in ("data", "crop", "init", "recipe")}
    del sections["recipe"]["training"]["epochs"]
    return {
        **sections,
        "validation": config.to_dict(cfg.validation) if cfg.validation else None,
        "image_size": cfg.image_size,
        "seed": cfg.run.seed,
        "in_process": plan.in_process,  # checkpoints in the driver's process are other files than Ray Train's
        "classes": list(plan.classes),
    }


def too_many_unreadable(plan: TrainPlan, unreadable: int) -> bool:
    """True when more images than the configuration allows could not be used."""
    return unreadable > plan.config.max_unreadable_fraction * plan.num_images


def check_resources(cfg: TrainConfig, capacity: Capacity) -> None:
    """Refuse, with the numbers, what would wait for ever; where the cluster may grow, say what is waited for.

    Workers that hold every CPU leave none to the tasks that read their images, and Ray then waits without a word. On a cluster
    that grows the fewest workers are counted, else as many as may come.
    """
    workers = cfg.workers
    count = workers.fewest if capacity.grows else workers.most
    reading = SHUFFLE_CPUS + (READ_CPUS if cfg.validation else 0)
    gpus = workers.fewest if with_gpu(workers, capacity) else 0
    check_fits(
        Resources(count * workers.cpus + reading, gpus),
        capacity,
        f"{count} workers x {workers.cpus:g} CPUs and the reading of images",
        "lower workers.count or workers.cpus, raise cluster.local_cpus, or set workers.use_gpu to false",
    )


def with_gpu(workers: WorkerSettings, capacity: Capacity) -> bool:
    """Whether each worker gets a GPU; by default when Ray has any, or is known to grow to some.

    Raises ValueError where nobody knows: such a run would train on CPUs what is meant for GPUs, or wait for what never comes.
    """
    if workers.use_gpu is not None:
        return workers.use_gpu
    if capacity.now.gpus < 1 and math.isinf(capacity.most.gpus):
        raise ValueError(
            "this cluster may grow and has no GPU now; set workers.use_gpu to true to wait for GPU nodes, to false to train on "
            "CPUs"
        )
    return capacity.most.gpus >= 1


def stall(cfg: TrainConfig, capacity: Capacity) -> Stall:
    """Who says what a run that does not move is waiting for."""
    gpus = 1.0 if with_gpu(cfg.workers, capacity) else 0.0
    tasks = ((SHUFFLE_CPUS, 0.0, "reading and shuffling"), (READ_CPUS, 0.0, "reading"))
    return Stall(cfg.cluster.stall_s, owners_of(((cfg.workers.cpus, gpus, "workers"), *tasks)))
