"""How the label pipeline is put together, on a data set that writes down what it is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.data import DataContext

from anchornet.budget.frontier import fit_frontier
from anchornet.data.inputs import InputSettings
from anchornet.data.reading import ReadAndDecode
from anchornet.images.preprocess import Preprocessing
from anchornet.ledger.plan import LedgerPlan
from anchornet.units import GIGA
from benchmarks.tables import EXIT_MACS, EXITS, synthetic_table
from jobs.labelling import pipeline
from jobs.labelling.actors import CALLS_IN_FLIGHT, StageActor, StageWork
from jobs.labelling.plan import LabelPlan
from jobs.resources.pools import pool_options
from jobs.settings.common import ClusterSettings, InferenceSettings, PoolSettings, RunSettings
from jobs.settings.label import BudgetSettings, LabelConfig, OutputSettings
from jobs.shell.run_folder import RunFolder
from jobs.shell.worker_log import Telling

POOLS = (PoolSettings(actors=2, batch_size=32), PoolSettings(gpus=0.5, batch_size=16), PoolSettings(max_actors=4))
LEDGER = object()


class Rows:
    """A data set that keeps every call; ``error`` is what writing ends with."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.maps: list[tuple[Any, dict[str, Any]]] = []
        self.written: dict[str, Any] = {}
        self.checkpointing: Any = None
        self.error = error

    def map_batches(self, function: Any, **options: Any) -> Rows:
        self.maps.append((function, options))
        return self

    def write_parquet(self, path: str, **options: Any) -> None:
        self.written = {"path": path, **options}
        self.checkpointing = DataContext.get_current().checkpoint_config
        if self.error:
            raise self.error


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """In place of the manifest; its folder and the size of its blocks are among the calls."""
    rows = Rows()
    monkeypatch.setattr(
        pipeline,
        "_manifest_rows",
        lambda folder, size, column, ledger: rows.map_batches("manifest", folder=folder, size=size, column=column),
    )
    return rows


def config(folder: Path, cluster: ClusterSettings | None = None) -> LabelConfig:
    return LabelConfig(
        run=RunSettings(folder=str(folder)),
        bundle="runs/bundle",
        input=InputSettings(path="i", decode_cpus=0.75, max_pixels=1000, read_threads=3, accept_truncated=True),
        budget=BudgetSettings(gflops_per_image=1.2),
        inference=InferenceSettings(precision="bfloat16"),
        cluster=cluster or ClusterSettings(),
        rows_per_file=77,
        output=OutputSettings(top_k=2),
    )


@pytest.fixture(scope="module")
def plan() -> LabelPlan:
    frontier = fit_frontier(synthetic_table(2000, 0))
    ledger = LedgerPlan(
        budget_macs=12 * GIGA, num_images=10, exit_macs=EXIT_MACS, stage_starts=(0, 1, 3), frontier=frontier
    )
    return LabelPlan(
        num_images=10,
        num_labelled=0,
        spent_macs=0,
        policy=frontier.at(1.2),
        ledger=ledger,
        exits=EXITS,
        stages=("first", "second", "third"),
        pools=POOLS,
        preprocessing=Preprocessing.of_size(96),
    )


def test_every_stage_has_its_pool_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Rows, plan: LabelPlan
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline.pipeline(config(tmp_path), plan, LEDGER)
    _, _, *stages = rows.maps
    assert len(stages) == len(POOLS)
    for index, ((actor, options), pool) in enumerate(zip(stages, POOLS, strict=True)):
        assert actor is StageActor
        work = StageWork(
            str(tmp_path / "runs/bundle"),
            index,
            pool,
            InferenceSettings(precision="bfloat16"),
            OutputSettings(top_k=2),
            RunFolder(str(tmp_path)).name,
        )
        assert options.pop("fn_constructor_args") == (work, LEDGER)
        assert options.pop("batch_size") == pool.batch_size
        assert options.pop("batch_format") == "pyarrow"
        wanted = pool_options(pool, CALLS_IN_FLIGHT)
        assert vars(options.pop("compute")) == vars(wanted.pop("compute"))
        assert options == wanted


def test_images_are_decoded_in_blocks_of_the_first_batch_and_never_inside_an_actor(
    tmp_path: Path, rows: Rows, plan: LabelPlan
) -> None:
    pipeline.pipeline(config(tmp_path), plan, LEDGER)
    (_, manifest), (telling, options), (_, first_stage), *_ = rows.maps
    assert isinstance(telling, Telling)
    assert (telling.notes, telling.run) == (LEDGER, RunFolder(str(tmp_path)).name)
    decode = telling.work
    assert manifest == {"folder": RunFolder(str(tmp_path)), "size": POOLS[0].batch_size, "column": "image"}
    assert isinstance(decode, ReadAndDecode)
    assert (decode.preprocessing, decode.max_pixels, decode.read_threads) == (plan.preprocessing, 1000, 3)
    assert decode.accept_truncated
    assert (options["num_cpus"], options["batch_size"]) == (0.75, None)
    assert options["memory"] == 8 * 1000 + 8 * 16_000_000 + 3 * 96 * 96 * POOLS[0].batch_size
    assert "memory" not in first_stage  # what asks for the same as its neighbour is fused with it


@pytest.mark.parametrize(("cluster", "most"), [(ClusterSettings(), 6), (ClusterSettings(address="auto"), None)])
def test_on_one_machine_no_more_is_decoded_at_once_than_it_has_cores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: Rows,
    plan: LabelPlan,
    cluster: ClusterSettings,
    most: int | None,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    pipeline.pipeline(config(tmp_path, cluster), plan, LEDGER)
    assert rows.maps[1][1]["compute"].size == most


class TestRun:
    @pytest.fixture
    def order(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What happens around the pipeline, in order."""
        order: list[str] = []

        @contextlib.contextmanager
        def lines(ledger: object, exits: tuple[str, ...], stall: object) -> Iterator[None]:
            assert exits == EXITS
            order.append("lines")
            yield
            order.append("no more lines")

        monkeypatch.setattr(pipeline, "progress_lines", lines)
        monkeypatch.setattr(pipeline, "await_purses", lambda ledger: order.append("purses"))
        return order

    def test_labels_are_written_and_ids_remembered_for_a_resume(
        self, tmp_path: Path, rows: Rows, plan: LabelPlan, order: list[str]
    ) -> None:
        pipeline.run_pipeline(config(tmp_path), plan, LEDGER)
        assert rows.written["path"] == str(tmp_path / "labels")
        assert rows.written["min_rows_per_file"] == 77
        assert rows.written["ray_remote_args"] == {"num_cpus": 0.25}
        assert rows.checkpointing.id_column == "image_id"
        assert order == ["lines", "no more lines", "purses"]

    @pytest.mark.parametrize("error", [RuntimeError("a worker died"), KeyboardInterrupt()], ids=type)
    def test_an_end_in_the_middle_leaves_nothing_behind_for_the_next_job(
        self, tmp_path: Path, rows: Rows, plan: LabelPlan, order: list[str], error: BaseException
    ) -> None:
        rows.error = error
        with pytest.raises(type(error)):
            pipeline.run_pipeline(config(tmp_path), plan, LEDGER)
        assert rows.checkpointing is not None
        assert DataContext.get_current().checkpoint_config is None
        assert order[-1] == "purses"  # what workers still hold is worth waiting for


def test_finished_ids_lie_beside_the_labels_and_outlive_success(tmp_path: Path) -> None:
    asked = pipeline.checkpointing(RunFolder(str(tmp_path)))
    assert asked.checkpoint_path == RunFolder(str(tmp_path)).finished_ids
    assert asked.delete_checkpoint_on_success is False
