"""What ``--dry-run`` estimates: the sample it draws, what limits the job, and what a person reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from anchornet.budget.frontier import Frontier, fit_frontier
from anchornet.data.inputs import InputSettings, list_input
from anchornet.data.manifest import manifest_table, read_manifest, write_manifest
from anchornet.images.preprocess import Preprocessing
from anchornet.ledger.plan import LedgerPlan
from anchornet.units import GIGA
from benchmarks.tables import EXIT_MACS, EXITS, synthetic_table
from jobs.labelling import dry_run
from jobs.labelling.dry_run import SAMPLE_IMAGES, Seconds, images_per_s, make_estimate, render
from jobs.labelling.plan import LabelPlan
from jobs.settings.common import ClusterSettings, PoolSettings, RunSettings
from jobs.settings.label import BudgetSettings, LabelConfig
from jobs.shell.run_folder import RunFolder
from tests.small_images import write_folders, write_parquet

REMOTE = ClusterSettings(address="head:6379")
LOCAL = ClusterSettings()
IMAGES = 1000


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return fit_frontier(synthetic_table(2000, 0))


@pytest.fixture(autouse=True)
def _a_machine_of_four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 4)


def config(folder: Path | str = "r", **changes: Any) -> LabelConfig:
    budget = BudgetSettings(gflops_per_image=1.2)
    settings = {
        "run": RunSettings(folder=str(folder)),
        "bundle": "b",
        "input": InputSettings(path="i"),
        "budget": budget,
    }
    return LabelConfig(**(settings | changes))


def a_plan(frontier: Frontier, *pools: PoolSettings, images: int = IMAGES, labelled: int = 0) -> LabelPlan:
    ledger = LedgerPlan(
        budget_macs=round(1.2 * images * GIGA),
        num_images=images - labelled,
        exit_macs=EXIT_MACS,
        stage_starts=(0, 1),
        frontier=frontier,
    )
    return LabelPlan(
        num_images=images,
        num_labelled=labelled,
        spent_macs=0,
        policy=frontier.at(1.2),
        ledger=ledger,
        exits=EXITS,
        stages=("glance", "patches"),
        pools=pools or (PoolSettings(), PoolSettings()),
        preprocessing=Preprocessing(),
    )


class TestSample:
    def test_it_is_drawn_from_the_whole_manifest_by_the_runs_seed(self, frontier: Frontier, tmp_path: Path) -> None:
        uris = [f"/{k}.jpg" for k in range(IMAGES)]
        write_manifest(RunFolder(str(tmp_path)).manifest, manifest_table(uris, seed=0))
        drawn = []
        for seed in (0, 0, 1):
            cfg = config(tmp_path, run=RunSettings(folder=str(tmp_path), seed=seed))
            sample_config, plan = dry_run._sample(cfg, a_plan(frontier))
            table = read_manifest(RunFolder(sample_config.run.folder).manifest)
            assert [uris[k] for k in table["image_id"].to_pylist()] == table["uri"].to_pylist()
            assert len(table) == plan.num_images == plan.ledger.num_images == SAMPLE_IMAGES
            drawn.append(set(table["image_id"].to_pylist()))
            assert sample_config.run.folder.startswith(f"{tmp_path}/dry_run/")
        assert drawn[0] == drawn[1] != drawn[2]
        assert len(drawn[0]) == SAMPLE_IMAGES

    def test_it_runs_under_the_planned_policy_and_counts_nobody_as_labelled(
        self, frontier: Frontier, tmp_path: Path
    ) -> None:
        write_manifest(RunFolder(str(tmp_path)).manifest, manifest_table(["/a.jpg", "/b.jpg"], seed=0))
        plan = a_plan(frontier, images=2, labelled=1)
        _, sample = dry_run._sample(config(tmp_path), plan)
        assert sample.ledger.fixed_policy == plan.policy
        assert (sample.num_images, sample.remaining) == (2, 2)


class TestLimit:
    """The slowest part of a pipeline decides, and on one machine all parts share its cores."""

    def test_a_stage(self, frontier: Frontier) -> None:
        pools = PoolSettings(actors=1, max_actors=3), PoolSettings(actors=2)
        plan, cfg = a_plan(frontier, *pools), config(cluster=REMOTE)
        rate, limit = images_per_s(cfg, plan, Seconds(0.001, (0.3, 0.1)), cluster_cpus=100)
        assert (rate, limit) == (pytest.approx(10), "stage glance (3 actors)")
        rate, limit = images_per_s(cfg, plan, Seconds(0.001, (0.1, 0.4)), cluster_cpus=100)
        assert (rate, limit) == (pytest.approx(5), "stage patches (2 actors)")

    def test_reading_in_what_the_pools_leave(self, frontier: Frontier) -> None:
        plan = a_plan(frontier, PoolSettings(cpus=2, max_actors=2), PoolSettings(cpus=1))
        cfg = config(cluster=REMOTE, input=InputSettings(path="i", decode_cpus=0.5))
        rate, limit = images_per_s(cfg, plan, Seconds(0.1, (0.001, 0.001)), cluster_cpus=8)
        assert (rate, limit) == (pytest.approx(60), "reading and decoding (6 tasks)")

    def test_there_is_always_one_task_that_reads(self, frontier: Frontier) -> None:
        cfg = config(cluster=REMOTE)
        rate, limit = images_per_s(cfg, a_plan(frontier), Seconds(0.1, (0.001, 0.001)), cluster_cpus=1)
        assert (rate, limit) == (pytest.approx(10), "reading and decoding (1 tasks)")

    def test_a_stage_that_no_image_reached_limits_nothing(self, frontier: Frontier) -> None:
        _, limit = images_per_s(config(cluster=REMOTE), a_plan(frontier), Seconds(0.1, (0.2, 0.0)), cluster_cpus=100)
        assert limit == "stage glance (1 actors)"

    @pytest.mark.parametrize(
        ("pool", "core_s"),
        [
            (PoolSettings(), 0.02 + 4 * 0.1),
            (PoolSettings(actors=2), 0.02 + 2 * 0.1),
            (PoolSettings(threads=1), 0.02 + 0.1),
            (PoolSettings(threads=64), 0.02 + 4 * 0.1),
            (PoolSettings(gpus=1), 0.02),
        ],
        ids=["all cores", "shared by two", "one thread", "never more than there are", "a GPU needs none"],
    )
    def test_the_cores_of_one_machine(self, frontier: Frontier, pool: PoolSettings, core_s: float) -> None:
        seconds = Seconds(0.02, (0.1, 0.0))
        plan = a_plan(frontier, pool, PoolSettings())
        rate, _ = images_per_s(config(cluster=LOCAL), plan, seconds, cluster_cpus=1000)
        alone, _ = images_per_s(config(cluster=REMOTE), plan, seconds, cluster_cpus=1000)
        assert rate == pytest.approx(min(4 / core_s, alone))

    def test_they_are_named_where_they_limit(self, frontier: Frontier) -> None:
        plan = a_plan(frontier, PoolSettings(actors=4, threads=4), PoolSettings())
        rate, limit = images_per_s(config(cluster=LOCAL), plan, Seconds(0.02, (0.1, 0.0)), cluster_cpus=1000)
        assert (rate, limit) == (pytest.approx(4 / 0.42), "the 4 cores of this machine")


def sampled(*rows: tuple[str, float, str | None, float | None]) -> pa.Table:
    """Label rows of (status, gflops, exit, confidence)."""
    status, gflops, exits, confidence = zip(*rows, strict=True)
    return pa.table(
        {
            "status": list(status),
            "gflops": list(gflops),
            "exit": pa.array(exits, pa.string()),
            "confidence": pa.array(confidence, pa.float32()),
        }
    )


SAMPLE = (("ok", 1.0, "glance", 0.9), ("ok", 2.0, "patch1", 0.5), ("unreadable", 0.0, None, None))
SECONDS = Seconds(0.01, (0.1, 0.2))


class TestEstimate:
    def test_spend_and_exits_are_those_of_the_readable_images(self, frontier: Frontier) -> None:
        estimate = make_estimate(config(cluster=REMOTE), a_plan(frontier), sampled(*SAMPLE), SECONDS, 100)
        assert (estimate["sampled"], estimate["sampled_ok"]) == (3, 2)
        assert estimate["expected_gflops_per_image"] == pytest.approx(1.5)
        assert estimate["expected_gflops_per_image_standard_error"] == pytest.approx(0.5 / 2**0.5)
        assert estimate["exits"] == {"glance": 1, "patch1": 1, "patch2": 0, "patch3": 0, "patch4": 0}
        assert estimate["mean_confidence"] == pytest.approx(0.7)
        assert estimate["planned_gflops_per_image"] == pytest.approx(1.2)
        assert estimate["asked_gflops"] == pytest.approx(1.2 * IMAGES)
        assert estimate["seconds_per_image"] == {"decode": 0.01, "glance": 0.1, "patches": 0.2}

    def test_time_and_money_are_of_what_remains(self, frontier: Frontier) -> None:
        cfg = config(cluster=replace(REMOTE, price_per_hour=36.0))
        plan = a_plan(frontier, labelled=400)
        estimate = make_estimate(cfg, plan, sampled(*SAMPLE), SECONDS, 100)
        assert (estimate["images"], estimate["remaining"]) == (1000, 600)
        assert estimate["images_per_s"] == pytest.approx(5)
        assert estimate["wall_h"] == pytest.approx(600 / 5 / 3600)
        assert estimate["money"] == pytest.approx(1.2)

    def test_without_a_readable_image_nothing_is_expected(self, frontier: Frontier) -> None:
        estimate = make_estimate(config(cluster=REMOTE), a_plan(frontier), sampled(SAMPLE[2]), SECONDS, 100)
        assert (estimate["expected_gflops_per_image"], estimate["mean_confidence"]) == (0.0, None)
        assert estimate["expected_gflops_per_image_standard_error"] == 0.0
        assert "mean confidence" not in render(estimate, RunFolder("r"))

    def test_a_person_reads_the_numbers_with_their_units(self, frontier: Frontier) -> None:
        cfg = config(cluster=replace(REMOTE, price_per_hour=36.0))
        plan = a_plan(frontier, labelled=400)
        text = render(make_estimate(cfg, plan, sampled(*SAMPLE), SECONDS, 100), RunFolder("r"))
        for line in (
            "sampled 3 of 1,000 images, 2 of them readable",
            "expected 1.5000 +- 0.3536 GFLOPs per image under the planned policy (calibration says 1.2000)",
            "exits in the sample: glance 1, patch1 1, patch2 0, patch3 0, patch4 0",
            "5.0 images/s, 0.03 h for 600 images, start-up left out (limited by stage patches (1 actors))",
            "money: 1.20",
            "written: r/dry_run.json, r/frontier.png",
        ):
            assert line in text
        assert f"expected accuracy {100 * (plan.policy.accuracy or 0):.1f} % +- " in text
        assert "mean confidence on the sample 70.0 %" in text

    def test_what_is_not_known_is_not_said(self, frontier: Frontier) -> None:
        plan = a_plan(frontier)
        unlabelled = replace(plan, policy=replace(plan.policy, accuracy=None, accuracy_se=None))
        text = render(make_estimate(config(cluster=REMOTE), unlabelled, sampled(*SAMPLE), SECONDS, 100), RunFolder("r"))
        assert "accuracy" not in text
        assert "money" not in text


def test_seconds_are_averaged_over_the_whole_sample(frontier: Frontier, tmp_path: Path) -> None:
    write_folders(str(tmp_path), 4)
    uris = [str(path) for path in sorted(tmp_path.rglob("*.png"))]
    write_parquet(str(tmp_path / "four.parquet"), 4, group_rows=3)
    inside = list_input(InputSettings(path=str(tmp_path / "four.parquet")))
    for sample in (
        manifest_table(uris, seed=0),
        manifest_table(inside["uri"].to_pylist(), 0, inside.drop_columns("uri")),
    ):
        seconds = dry_run._seconds_per_image(config(), a_plan(frontier), {"stage_compute_s": [8.0, 2.0]}, sample)
        assert seconds.stages == (2.0, 0.5)
        assert np.isfinite(seconds.decode)
        assert seconds.decode > 0
