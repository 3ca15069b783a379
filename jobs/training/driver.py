"""What the driver of a train job does: list the data, check the resources, start Ray Train, save the best epoch."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import ray
import ray.train
from ray.train.torch import TorchTrainer

from anchornet.data.sources import list_images
from anchornet.files import config, storage
from anchornet.files.documents import write_json
from anchornet.images.preprocess import Preprocessing
from anchornet.models.card import ModelCard, save_model
from anchornet.models.classifiers import build_classifier
from anchornet.models.training_settings import ClassifierRecipe
from anchornet.systems.registry import role_of
from jobs.data import dataset
from jobs.resources.capacity import Capacity, cluster_capacity
from jobs.settings.train import TrainConfig
from jobs.shell.progress import progress
from jobs.shell.provenance import provenance, save_provenance
from jobs.shell.ray_session import ray_session
from jobs.shell.run_folder import RunFolder
from jobs.training.local_checkpoints import SCORE, LocalCheckpoints
from jobs.training.loop import read_state, train_worker
from jobs.training.plan import (
    CHECKPOINT_FOLDER,
    TrainPlan,
    check_resources,
    identity,
    stall,
    too_many_unreadable,
    with_gpu,
)
from jobs.training.progress import training_lines
from jobs.training.shards import EveryValidationImage

logger = logging.getLogger(__name__)

SHOWN_REASONS = 20


Datasets = dict[str, ray.data.Dataset | Callable[[], ray.data.Dataset]]
"""As Ray Train's annotation has them."""


def run_training(plan: TrainPlan) -> int:
    """Exit code 0 once ``RUN/model`` holds the best epoch; a run that has reached that point returns at once.

    A plan without classes takes them from the data. Raises ValueError for data, folders or resources that cannot work,
    RuntimeError when a worker fails for good.
    """
    folder, epochs = RunFolder(plan.config.run.folder), plan.settings.epochs
    folder.check_same(identity(plan), forgiven=("classes",))
    if (folder.read_report() or {"epochs": 0})["epochs"] >= epochs:
        logger.info("%s is finished; its model is %s", folder.uri, folder.model)
        return 0
    with ray_session(plan.config.cluster, folder.uri):
        plan, datasets, notes = _open_data(plan)
        capacity = cluster_capacity(plan.config.cluster)
        check_resources(plan.config, capacity)
        folder.check_same(identity(plan))
        folder.remember(identity(plan))
        save_provenance(plan.config)
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"plan": plan, "notes": notes},
            scaling_config=scaling(plan.config, capacity),
            run_config=_run_config(plan.config),
            datasets=datasets,
            dataset_config=EveryValidationImage(),  # in the driver's own process the data sets come as they are
        )
        with training_lines(folder.metrics, notes, stall(plan.config, capacity)):
            result = _fit(trainer)
        reasons = ray.get(notes.reasons.remote())
        ray.kill(notes)  # handles inside the data sets would keep it for as long as this process
        _check_readable(plan, reasons)
        _save_best(plan, result, reasons)
    return 0


def _open_data(plan: TrainPlan) -> tuple[TrainPlan, Datasets, Any]:
    """The plan with what the data says, the data sets by name, and the notes of unreadable images."""
    cfg = plan.config
    for name, uri in (("init.weights", cfg.init.weights), ("init.model", cfg.init.model)):
        if uri is not None and not storage.exists(uri):
            raise ValueError(
                f"{name} {uri} does not exist; give a file that does, or leave it out to start from scratch"
            )
    with progress(f"listing {cfg.data.path}"):
        found = list_images(cfg.data, plan.classes or None, seed=cfg.run.seed)
    notes, run = dataset.start_notes(), RunFolder(cfg.run.folder).name
    epochs_done = len(_lines(RunFolder(cfg.run.folder).metrics))
    seed = _epoch_seed(cfg.run.seed, epochs_done)
    datasets: Datasets = {"train": dataset.training_images(found, cfg.crop, seed, notes, run)}
    num_images = found.num_images
    if cfg.validation is not None:
        held_out = list_images(cfg.validation, found.classes, seed=cfg.run.seed)
        preprocessing = Preprocessing.of_size(cfg.image_size)
        datasets["validation"] = dataset.validation_images(held_out, preprocessing, notes, run)
        num_images += held_out.num_images
    logger.info(
        "%d classes, %d training images, %d for validation",
        len(found.classes),
        found.num_images,
        num_images - found.num_images,
    )
    buffer = 0 if found.rows_are_files else cfg.shuffle_buffer
    known = replace(plan, classes=found.classes, num_images=num_images, num_training_images=found.num_images)
    return replace(known, shuffle_buffer=buffer), datasets, notes


def _epoch_seed(seed: int, epochs_done: int) -> int:
    """Seed of orders and crops: Ray counts executions from 0 at each start, so a resumed run needs another one.

    Workers that Ray itself restarts within a run count anew too and draw the run's first epochs again.
    """
    return int(np.random.SeedSequence([seed, epochs_done]).generate_state(1)[0])


def scaling(cfg: TrainConfig, capacity: Capacity) -> ray.train.ScalingConfig:
    """How many workers Ray Train starts, and what each of them holds."""
    wish, gpu = cfg.workers, with_gpu(cfg.workers, capacity)
    return ray.train.ScalingConfig(
        num_workers=cast(Any, wish.count),  # (fewest, most) is not in Ray's annotation
        use_gpu=gpu,
        resources_per_worker={"CPU": wish.cpus, **({"GPU": 1} if gpu else {})},
        accelerator_type=wish.accelerator_type,
    )


def _run_config(cfg: TrainConfig) -> ray.train.RunConfig:
    """Checkpoints of the best and of the last epoch below the run folder; found again by the next start."""
    file_system, path = storage.resolve(cfg.run.folder)
    return ray.train.RunConfig(
        name=CHECKPOINT_FOLDER,
        storage_path=path,
        storage_filesystem=file_system,
        failure_config=ray.train.FailureConfig(max_failures=cfg.workers.max_failures),
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=SCORE),
    )


def _fit(trainer: TorchTrainer) -> ray.train.Result:
    """``trainer.fit()`` with this project's errors: KeyboardInterrupt for Ctrl-C, RuntimeError for a failed worker.

    Ray Train answers SIGINT by a clean abort and ``sys.exit(0)``, which would look like success.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        return trainer.fit()
    except SystemExit as stop:
        raise KeyboardInterrupt from stop
    except ray.train.WorkerGroupError as error:
        reasons = {f"{type(reason).__name__}: {reason}" for reason in error.worker_failures.values()}
        raise RuntimeError(f"training stopped: {'; '.join(sorted(reasons))}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _lines(uri: str) -> list[bytes]:
    return storage.read_bytes(uri).splitlines() if storage.exists(uri) else []


def _check_readable(plan: TrainPlan, reasons: dict[str, str]) -> None:
    """Log what was left out; raise ValueError when that was too much."""
    for uri, reason in list(reasons.items())[:SHOWN_REASONS]:
        logger.warning("left out %s: %s", uri, reason)
    if too_many_unreadable(plan, len(reasons)):
        uri, reason = next(iter(reasons.items()))
        raise ValueError(
            f"{len(reasons)} of {plan.num_images} images cannot be used, such as {uri} ({reason}); "
            f"mend them or raise max_unreadable_fraction ({plan.config.max_unreadable_fraction:g})"
        )


def _best_epoch(plan: TrainPlan, result: ray.train.Result) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's state dict of the epoch to keep, and its metrics; the later one of equals."""
    if plan.in_process:
        return LocalCheckpoints(plan.checkpoints).best()
    assert result.best_checkpoints is not None
    checkpoint, best = max(result.best_checkpoints, key=lambda entry: (entry[1][SCORE], entry[1]["epoch"]))
    return read_state(checkpoint)["model"], best


def preprocessing_of(cfg: TrainConfig) -> Preprocessing | None:
    """What a classifier of whole images was validated with; None for the networks of a system, which that feeds."""
    return Preprocessing.of_size(cfg.image_size) if isinstance(cfg.recipe, ClassifierRecipe) else None


def _save_best(plan: TrainPlan, result: ray.train.Result, unreadable: dict[str, str]) -> None:
    """``RUN/model`` and, last of all, ``RUN/report.json``, whose presence says that the run is finished."""
    state, best = _best_epoch(plan, result)
    module = build_classifier(plan.recipe.architecture, len(plan.classes))
    module.load_state_dict(state)
    metrics = {name: value for name, value in best.items() if name != SCORE}
    card = ModelCard(
        role=role_of(plan.recipe),
        architecture=plan.recipe.architecture,
        classes=plan.classes,
        preprocessing=preprocessing_of(plan.config),
        metrics=metrics,
        training=config.to_dict(plan.config),
        versions=provenance()["versions"],
    )
    folder = RunFolder(plan.config.run.folder)
    save_model(folder.model, module.eval(), card)
    report = {
        "epochs": plan.settings.epochs,
        "kept_epoch": best["epoch"],
        "metrics": metrics,
        "unreadable_images": len(unreadable),
        "unreadable_examples": dict(list(unreadable.items())[:SHOWN_REASONS]),
    }
    write_json(folder.report, report)
    logger.info("kept epoch %d of %d in %s", best["epoch"], plan.settings.epochs, folder.model)
