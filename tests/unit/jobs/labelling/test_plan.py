"""What a label job plans: sizes, what earlier starts spent, and the pools that would leave nothing for reading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.budget.frontier import fit_frontier
from anchornet.bundle import Bundle
from anchornet.data.inputs import InputSettings
from anchornet.files import storage
from anchornet.files.documents import write_json
from anchornet.ledger.mark import MarkState
from anchornet.units import GIGA
from jobs.labelling.plan import check_output, check_resources, plan_label, process_names, with_pools
from jobs.resources.capacity import Capacity, Resources
from jobs.settings.common import ClusterSettings, PoolSettings, RunSettings
from jobs.settings.label import BudgetSettings, LabelConfig, OutputSettings
from jobs.shell.run_folder import RunFolder
from tests.fake_cascade import FakeCascade
from tests.tiny_bundle import made_up_table, tiny_bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The tiny networks with a frontier fitted on made-up answers: later exits are better."""
    plain = tiny_bundle()
    table = made_up_table()
    return replace(plain, frontier=fit_frontier(table))


def config(run: Path, **changes: object) -> LabelConfig:
    budget = changes.pop("budget", None) or BudgetSettings(gflops_per_image=1.0)
    settings = {"run": RunSettings(folder=str(run)), "bundle": "b", "input": InputSettings(path="i"), "budget": budget}
    return LabelConfig(**(settings | changes))  # type: ignore[arg-type]


def a_budget(bundle: Bundle, images: int, mode: str = "hard") -> BudgetSettings:
    """Half way between the dearest and the cheapest policy, for ``images`` images."""
    assert bundle.frontier is not None
    middle = 0.5 * (bundle.frontier.minimum_gflops + bundle.frontier.maximum_gflops)
    return BudgetSettings(total_gflops=middle * images, mode=mode)  # type: ignore[arg-type]


def started_before(run: Path, rows: int, spent_macs: int) -> None:
    finished = Path(RunFolder(str(run)).finished_ids)
    finished.mkdir(parents=True)
    pq.write_table(pa.table({"image_id": list(range(rows))}), finished / "a.parquet")
    storage.write_bytes(RunFolder(str(run)).mark, MarkState(authorised_macs=spent_macs).to_bytes())


def test_a_fresh_run_has_everything_before_it(bundle: Bundle, tmp_path: Path) -> None:
    plan = plan_label(config(tmp_path, budget=a_budget(bundle, 50)), bundle, 50)
    assert (plan.num_images, plan.num_labelled, plan.remaining, plan.spent_macs) == (50, 0, 50, 0)
    assert plan.budget_macs == round((a_budget(bundle, 50).total_gflops or 0) * GIGA)
    assert plan.policy.expected_macs * 50 == pytest.approx(plan.budget_macs, rel=1e-6)
    assert (plan.ledger.num_images, plan.ledger.id_limit, plan.ledger.fixed_policy) == (50, 50, None)
    assert plan.ledger.exit_macs == tuple(each.macs for each in bundle.cascade().exits)
    assert plan.pools == ()  # before the size of the cluster is known
    assert plan.exits == ("anchor", "glance", "patch1", "patch2", "patch3", "patch4")


def test_the_ledger_of_a_part_knows_ids_of_the_whole_listing(bundle: Bundle, tmp_path: Path) -> None:
    part = InputSettings(path="i", shard="2/4")
    plan = plan_label(config(tmp_path, budget=a_budget(bundle, 50), input=part), bundle, 50)
    assert (plan.ledger.num_images, plan.ledger.id_limit) == (50, 200)


def test_a_resumed_run_plans_the_rest_with_the_rest(bundle: Bundle, tmp_path: Path) -> None:
    fresh = plan_label(config(tmp_path, budget=a_budget(bundle, 50)), bundle, 50)
    started_before(tmp_path, rows=20, spent_macs=round(0.4 * fresh.budget_macs))
    plan = plan_label(config(tmp_path, budget=a_budget(bundle, 50)), bundle, 50)
    assert (plan.num_labelled, plan.remaining) == (20, 30)
    assert plan.spent_macs == round(0.4 * fresh.budget_macs)
    assert plan.budget_macs == fresh.budget_macs
    assert plan.policy.expected_macs * 30 == pytest.approx(0.6 * fresh.budget_macs, rel=1e-6)
    assert (plan.ledger.num_images, plan.ledger.id_limit) == (30, 50)
    assert plan.ledger.session != fresh.ledger.session


def test_in_mode_fixed_the_policy_is_the_whole_jobs(bundle: Bundle, tmp_path: Path) -> None:
    started_before(tmp_path, rows=20, spent_macs=10**9)
    plan = plan_label(config(tmp_path, budget=a_budget(bundle, 50, "fixed")), bundle, 50)
    assert plan.ledger.fixed_policy == plan.policy
    assert plan.policy.expected_macs * 50 == pytest.approx(plan.budget_macs, rel=1e-6)


@pytest.mark.parametrize("mode", ["hard", "fixed"])
@pytest.mark.parametrize("key", ["total_gflops", "gflops_per_image"])
class TestBudgetsFarOutOfRange:
    """They get the message of those that are a little out of range."""

    def test_one_of_next_to_nothing_is_below_the_first_exit(
        self, bundle: Bundle, tmp_path: Path, mode: str, key: str
    ) -> None:
        for tiny in (5e-324, 1e-300):
            budget = BudgetSettings(**{key: tiny, "mode": mode})
            with pytest.raises(
                ValueError, match=r"GFLOPs per image is below the first exit .*; raise the budget to at least"
            ):
                plan_label(config(tmp_path, budget=budget), bundle, 50)

    def test_one_beyond_all_bounds_is_beyond_the_useful_maximum(
        self, bundle: Bundle, tmp_path: Path, mode: str, key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        dearest = sum(each.macs for each in bundle.cascade().exits)
        for huge in (1e30, 1.7e308):
            caplog.clear()
            plan = plan_label(config(tmp_path, budget=BudgetSettings(**{key: huge, "mode": mode})), bundle, 50)
            assert "GFLOPs per image is beyond the useful maximum; no more than" in caplog.text
            assert plan.policy.expected_macs == bundle.frontier.costs_macs[-1]
            assert plan.budget_macs == 1000 * 50 * dearest
            assert "inf" not in plan.summary()


def test_a_bundle_without_frontier_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bundle b has no frontier; run python -m jobs\.calibrate first"):
        plan_label(config(tmp_path), replace(bundle, frontier=None), 50)


def test_output_that_the_bundle_cannot_give_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    budget, classes = a_budget(bundle, 50), len(bundle.classes)
    asked = OutputSettings(top_k=classes, embedding=True)
    assert plan_label(config(tmp_path, budget=budget, output=asked), bundle, 50).num_images == 50
    with pytest.raises(
        ValueError, match=rf"output\.top_k is {classes + 1}, the bundle knows {classes} classes; ask for"
    ):
        plan_label(config(tmp_path, budget=budget, output=OutputSettings(top_k=classes + 1)), bundle, 50)
    with pytest.raises(ValueError, match=r"gives no embedding at exit exit0; set output\.embedding to false"):
        check_output(config(tmp_path, output=OutputSettings(embedding=True)), FakeCascade())


def test_the_summary_says_what_a_person_wants_to_know(bundle: Bundle, tmp_path: Path) -> None:
    fresh = plan_label(config(tmp_path, budget=a_budget(bundle, 50)), bundle, 50)
    assert "images   50, of which 0 are labelled already" in fresh.summary()
    assert "earlier starts" not in fresh.summary()
    assert f"{fresh.budget_macs / GIGA / 50:.4f} per image" in fresh.summary()
    resumed = replace(fresh, num_labelled=20, spent_macs=1_500_000_000)
    assert "of which 20 are labelled" in resumed.summary()
    assert "; 1.500 of them spent by earlier starts" in resumed.summary()
    assert f"anchor {100 * fresh.policy.exit_fractions[0]:.0f} %" in resumed.summary()
    assert "accuracy" in fresh.summary()
    unlabelled = replace(fresh, policy=replace(fresh.policy, accuracy=None, accuracy_se=None))
    assert "accuracy" not in unlabelled.summary()


POOLS = (PoolSettings(actors=2, cpus=0.5), PoolSettings(actors=3, max_actors=4, cpus=0.25), PoolSettings(cpus=1))
LOCAL = ClusterSettings()
REMOTE = ClusterSettings(address="head:6379")


@pytest.mark.parametrize(
    ("cluster", "held"),
    [(LOCAL, 2 * 0.5 + 4 * 0.25 + 1), (REMOTE, 2 * 0.5 + 3 * 0.25 + 1)],
    ids=["a local Ray holds all at once", "on a cluster they grow one by one"],
)
def test_pools_leave_cpus_for_reading(tmp_path: Path, cluster: ClusterSettings, held: float) -> None:
    settings, local = config(tmp_path, cluster=cluster), cluster is LOCAL
    others = settings.input.decode_cpus + 0.25 + 0.25 + 1.0
    check_resources(settings, POOLS, Capacity.fixed(held + others, one_machine=local))
    sizes = f"2 x 0.5 \\+ {4 if local else 3} x 0.25 \\+ 1 x 1"
    with pytest.raises(ValueError, match=rf"pools \({held:g} CPUs: {sizes}\) and .* \({others:g}\) need"):
        check_resources(settings, POOLS, Capacity.fixed(held + others - 0.01, one_machine=local))


def test_only_a_local_ray_is_told_of_its_own_setting(tmp_path: Path) -> None:
    for cluster in (LOCAL, REMOTE):
        with pytest.raises(ValueError, match="the job would wait for ever") as refusal:
            check_resources(config(tmp_path, cluster=cluster), POOLS, Capacity.fixed(1, one_machine=cluster is LOCAL))
        assert ("or raise cluster.local_cpus" in str(refusal.value)) == (cluster is LOCAL)


def test_pools_have_their_gpus(tmp_path: Path) -> None:
    pools = (PoolSettings(gpus=0.5), PoolSettings(actors=1, max_actors=3, gpus=1))
    check_resources(config(tmp_path, cluster=LOCAL), pools, Capacity.fixed(100, 3.5, one_machine=True))
    with pytest.raises(
        ValueError, match=r"and 3\.5 GPUs, Ray has 100 logical CPUs and 3 GPUs: .* lower the cpus, the gpus"
    ):
        check_resources(config(tmp_path, cluster=LOCAL), pools, Capacity.fixed(100, 3, one_machine=True))
    check_resources(config(tmp_path, cluster=REMOTE), pools, Capacity(Resources(0, 0), Resources(100, 2)))


def test_pools_that_are_not_given_follow_from_the_cluster_and_what_was_measured(
    tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(tmp_path, cluster=REMOTE)
    plan = plan_label(settings, bundle, 50)
    assert plan.pools == ()
    caplog.set_level("INFO", "jobs")
    empty = Capacity(Resources(0, 0), Resources(64, 12))
    evenly = with_pools(settings, plan, empty)
    assert [(pool.gpus, pool.actors, pool.largest) for pool in evenly.pools] == [(1, 1, 6), (1, 1, 6)]
    assert "pools, as none are given: anchor 1 to 6 actors of 0.5 CPU and 1 GPU; patches 1 to 6" in caplog.text
    assert "waiting for the cluster to grow: the pools" in caplog.text
    measured = {"decode": 0.01, plan.stages[0]: 0.001, plan.stages[1]: 0.009}
    write_json(RunFolder(settings.run.folder).estimate, {"seconds_per_image": measured})
    assert [pool.largest for pool in with_pools(settings, plan, empty).pools] == [2, 10]
    given = replace(settings, pools=(PoolSettings(cpus=1), PoolSettings(cpus=2)))
    assert with_pools(given, plan_label(given, bundle, 50), empty).pools == given.pools


def test_processes_are_known_by_what_they_ask_for(tmp_path: Path, bundle: Bundle) -> None:
    settings = config(tmp_path, pools=(PoolSettings(cpus=0.5, gpus=1), PoolSettings(cpus=2)))
    names = process_names(settings, plan_label(settings, bundle, 50))
    assert names[Resources(0.5, 1)] == "the pool of anchor"
    assert names[Resources(2, 0)] == "the pool of patches"
    assert names[Resources(0.25, 0)] == "reading or writing rows"
