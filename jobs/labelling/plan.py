"""What a label job is going to do, decided before anything expensive starts."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from anchornet.budget.frontier import Frontier, MixedPolicy
from anchornet.bundle import Bundle
from anchornet.cascade.protocol import Cascade, Placement, stage_starts
from anchornet.files import storage
from anchornet.files.documents import read_json
from anchornet.images.preprocess import Shaping
from anchornet.ledger.ledger import LedgerPlan
from anchornet.units import GIGA, gflops_text
from jobs.labelling.resume import count_labelled, spent_so_far
from jobs.resources.capacity import Capacity, Resources, check_fits, owners_of
from jobs.resources.default_pools import default_pools, pools_text
from jobs.settings.common import PoolSettings
from jobs.settings.label import LabelConfig
from jobs.shell.run_folder import RunFolder

logger = logging.getLogger(__name__)

SMALL_TASK_CPUS = 0.25
"""Logical CPUs of a task that reads manifest rows or writes label rows."""
_MORE_THAN_ENOUGH = 1000
"""Times every exit of every image; a larger budget counts as this one, so that all sums stay whole numbers of usual size."""


@dataclass(frozen=True)
class LabelPlan:
    """A label job before it starts."""

    num_images: int
    """Images in the manifest."""
    num_labelled: int
    """Of these, images that an earlier start of this run has finished."""
    spent_macs: int
    """What earlier starts of this run spent of the budget."""
    policy: MixedPolicy
    """The point of the frontier that the budget buys, for images like those of the calibration."""
    ledger: LedgerPlan
    exits: tuple[str, ...]
    stages: tuple[str, ...]
    pools: tuple[PoolSettings, ...]
    """One per stage; none before the size of the cluster is known, if the configuration names none."""
    preprocessing: Shaping

    @property
    def budget_macs(self) -> int:
        """Multiply-adds for the whole job."""
        return self.ledger.budget_macs

    @property
    def remaining(self) -> int:
        """Images without a row."""
        return self.num_images - self.num_labelled

    def summary(self) -> str:
        """The plan in a few lines for a person."""
        policy = self.policy
        per_image = self.budget_macs / GIGA / self.num_images
        shares = zip(self.exits, policy.exit_fractions, strict=True)
        lines = [
            f"images   {self.num_images:,}, of which {self.num_labelled:,} are labelled already",
            f"budget   {self.budget_macs / GIGA:,.3f} GFLOPs, {per_image:.4f} per image"
            + (f"; {self.spent_macs / GIGA:,.3f} of them spent by earlier starts" if self.spent_macs else ""),
            f"plan     {policy.expected_gflops:.4f} GFLOPs per image: "
            + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares),
        ]
        if policy.accuracy is not None and policy.accuracy_se is not None:
            lines.append(f"accuracy {100 * policy.accuracy:.1f} % +- {100 * policy.accuracy_se:.1f} expected")
        return "\n".join(lines)


def plan_label(config: LabelConfig, bundle: Bundle, num_images: int) -> LabelPlan:
    """The plan of a job over ``num_images`` images.

    Raises ValueError when the bundle is not calibrated, or the budget does not buy the first exit for every image.
    """
    frontier = bundle.frontier
    if frontier is None:
        raise ValueError(f"bundle {config.bundle} has no frontier; run python -m jobs.calibrate first")
    # Measures what each exit costs on the bundle's own networks.
    cascade = bundle.cascade(Placement(embedding=config.output.embedding))
    check_output(config, cascade)
    pools = config.pools_for(len(cascade.stages))
    folder = RunFolder(config.run.folder)
    per_image = config.budget.gflops_per_image or (config.budget.total_gflops or 0.0) / num_images
    num_labelled = count_labelled(folder)
    enough_macs = _MORE_THAN_ENOUGH * num_images * sum(exit.macs for exit in cascade.exits)
    budget_macs = round(min(per_image * num_images * GIGA, enough_macs))
    spent_macs = spent_so_far(folder, num_labelled)
    policy = policy_for_the_rest(
        config.budget.mode,
        frontier,
        per_image,
        budget_macs - spent_macs,
        num_images - num_labelled,
        cascade.exits[0].macs,
        num_images,
    )
    ledger = LedgerPlan(
        budget_macs=budget_macs,
        num_images=num_images - num_labelled,
        exit_macs=tuple(exit.macs for exit in cascade.exits),
        stage_starts=stage_starts(cascade),
        frontier=frontier,
        id_limit=num_images * config.input.part[1],  # ids are positions in the whole listing
        session=uuid.uuid4().hex,
        fixed_policy=policy if config.budget.mode == "fixed" else None,
    )
    return LabelPlan(
        num_images=num_images,
        num_labelled=num_labelled,
        spent_macs=spent_macs,
        policy=policy,
        ledger=ledger,
        exits=frontier.exits,
        stages=tuple(stage.name for stage in cascade.stages),
        pools=pools,
        preprocessing=bundle.preprocessing,
    )


def check_output(config: LabelConfig, cascade: Cascade[Any]) -> None:
    """Raises ValueError for output that the cascade cannot give."""
    output, silent = config.output, [exit.name for exit in cascade.exits if not exit.embedding]
    if output.top_k > len(cascade.classes):
        raise ValueError(
            f"output.top_k is {output.top_k}, the bundle knows {len(cascade.classes)} classes; ask for at most so many"
        )
    if output.embedding and silent:
        raise ValueError(
            f"the bundle's system gives no embedding at exit {silent[0]}; set output.embedding to false, or let its steps "
            f"hold one (docs/systems.md)"
        )


def policy_for_the_rest(
    mode: str,
    frontier: Frontier,
    per_image: float,
    left_macs: int,
    remaining: int,
    first_macs: int,
    num_images: int,
) -> MixedPolicy:
    """The point of the frontier for the images that remain: in mode ``hard`` what is left of the budget buys it.

    Raises ValueError when the budget, or what is left of it, does not cover the first exit of the images that remain.
    """
    if mode == "fixed" or not remaining or per_image < frontier.minimum_gflops * (1 - 1e-12):
        return frontier.at(per_image)  # which refuses one below the first exit
    left_per_image = left_macs / GIGA / remaining
    if left_macs < remaining * first_macs and left_per_image < per_image * (1 - 1e-6):
        enough = per_image * num_images + (remaining * first_macs - left_macs) / GIGA
        raise ValueError(
            f"earlier starts of this run left {left_macs / GIGA:.6g} GFLOPs of the budget, the first exit of the "
            f"{remaining} images without a label costs {remaining * first_macs / GIGA:.6g}; set budget.gflops_per_image to at "
            f"least {gflops_text(enough / num_images)} or budget.total_gflops to {gflops_text(enough)}"
        )
    return frontier.at(left_per_image)


def with_pools(config: LabelConfig, plan: LabelPlan, capacity: Capacity) -> LabelPlan:
    """The plan with a pool for each stage: those of the configuration, else defaults for this cluster.

    Raises ValueError when they can never all run beside the tasks that read.
    """
    if not plan.pools:
        pools = default_pools(capacity, len(plan.stages), _measured_seconds(config, plan))
        logger.info("pools, as none are given: %s", pools_text(plan.stages, pools))
        plan = replace(plan, pools=pools)
    check_resources(config, plan.pools, capacity)
    return plan


def _measured_seconds(config: LabelConfig, plan: LabelPlan) -> list[float]:
    """What each stage takes per image, when ``--dry-run`` has measured it in this run folder."""
    estimate = RunFolder(config.run.folder).estimate
    if not storage.exists(estimate):
        return []
    return [float(read_json(estimate)["seconds_per_image"].get(stage, 0.0)) for stage in plan.stages]


def check_resources(config: LabelConfig, pools: Sequence[PoolSettings], capacity: Capacity) -> None:
    """Refuse pools that can never run, or that leave nothing for reading: Ray Data would wait for ever without an error.

    Raises ValueError with the sum. Pools are counted at their smallest size on a cluster, where they grow one by one, and at
    their largest on a local Ray, where all would be held at once.
    """
    local = capacity.one_machine
    sizes = [pool.largest if local else pool.actors for pool in pools]
    held = sum(size * pool.cpus for size, pool in zip(sizes, pools, strict=True))
    gpus = sum(size * pool.gpus for size, pool in zip(sizes, pools, strict=True))
    # One task that decodes, one that reads the manifest, one that writes, and on a resume Ray's filter actor (1 CPU).
    others = config.input.decode_cpus + 2 * SMALL_TASK_CPUS + 1.0
    terms = " + ".join(f"{size} x {pool.cpus:g}" for size, pool in zip(sizes, pools, strict=True))
    what = f"the pools ({held:g} CPUs: {terms}) and reading, decoding, resuming and writing ({others:g})"
    remedy = "lower the cpus, the gpus or the number of actors of pools" + (
        ", or raise cluster.local_cpus" if local else ""
    )
    check_fits(Resources(held + others, gpus), capacity, what, remedy)


def process_names(config: LabelConfig, plan: LabelPlan) -> dict[Resources, str]:
    """What the processes of the job are, by what they ask of Ray."""
    pools = (
        (pool.cpus, pool.gpus, f"the pool of {stage}") for stage, pool in zip(plan.stages, plan.pools, strict=True)
    )
    tasks = ((config.input.decode_cpus, 0.0, "decoding"), (SMALL_TASK_CPUS, 0.0, "reading or writing rows"))
    return owners_of((*pools, *tasks))
