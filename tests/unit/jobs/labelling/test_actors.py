"""The actors of the label pipeline against the loop in one process, with a ledger in this process in place of Ray's."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from torch import Tensor, nn

from anchornet.budget.exit_table import ExitTable
from anchornet.budget.frontier import fit_frontier
from anchornet.bundle import Bundle, assemble_bundle, load_bundle, write_calibration
from anchornet.cascade.protocol import Placement
from anchornet.cascade.rows import BUDGET_EXHAUSTED, LABEL_SCHEMA, work_table
from anchornet.cascade.run import run_all_exits, run_cascade
from anchornet.images.tensors import normalise
from anchornet.ledger.ledger import Grant, Ledger, MemoryMark, Statement
from anchornet.ledger.mark import MarkState
from anchornet.ledger.plan import LedgerPlan
from anchornet.systems.anchornet.network import AnchorNet
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.units import GIGA
from jobs.labelling import purse_holder
from jobs.labelling.actors import StageActor, StageWork
from jobs.settings.common import InferenceSettings, PoolSettings
from jobs.settings.label import OutputSettings
from tests.tiny_bundle import TinyClassifier, save_tiny_models, tiny_cascade

COUNT, SIZE = 12, 224


def blocks_of_colour(count: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 14, 14, 3), dtype=np.uint8)
    return coarse.repeat(SIZE // 14, axis=1).repeat(SIZE // 14, axis=2)


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny networks, calibrated on images whose truth is what the last exit says."""
    folder = tmp_path_factory.mktemp("actors")
    bundle = str(folder / "bundle")
    assemble_bundle(bundle, save_tiny_models(str(folder / "models")), AnchorNetSettings())
    cascade = tiny_cascade()
    found = run_all_exits(cascade, blocks_of_colour(40, seed=1))
    table = ExitTable(
        exits=tuple(each.name for each in cascade.exits),
        image_id=np.arange(40),
        confidence=found.confidence,
        prediction=found.prediction,
        cost_macs=found.cost_NK,
        label=found.prediction[:, -1],
    )
    write_calibration(bundle, table, fit_frontier(table))
    return bundle


@dataclass
class Local:
    """A ledger in this process, called as one on Ray is; what was skipped and stated is kept."""

    ledger: Ledger

    def __post_init__(self) -> None:
        self.skipped: list[int] = []
        self.statements: list[Statement] = []
        self.exchange = SimpleNamespace(remote=self._exchange)
        self.skip = SimpleNamespace(remote=self._skip)

    def _exchange(self, statement: Statement) -> Grant:
        self.statements.append(statement)
        return self.ledger.exchange(statement, 0.0)

    def _skip(self, image_ids: np.ndarray) -> None:
        self.skipped += image_ids.tolist()
        self.ledger.skip(image_ids)


@pytest.fixture(autouse=True)
def _answers_are_here_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purse_holder, "answer", lambda reference, timeout_s=None: reference)
    monkeypatch.setattr(purse_holder, "_watch", lambda holder_of: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)


def a_ledger(
    bundle: Bundle, gflops_per_image: float, *, fixed: bool, images: int = COUNT, mark: MarkState | None = None
) -> Local:
    assert bundle.frontier is not None
    cascade = bundle.cascade()
    plan = LedgerPlan(
        budget_macs=round(gflops_per_image * images * GIGA),
        num_images=images,
        exit_macs=tuple(each.macs for each in cascade.exits),
        stage_starts=tuple(stage.first for stage in cascade.stages),
        frontier=bundle.frontier,
        session="s",
        fixed_policy=bundle.frontier.at(gflops_per_image) if fixed else None,
    )
    return Local(Ledger(plan, MemoryMark(), mark))


def actors(folder: str, ledger: Local, output: OutputSettings | None = None) -> list[StageActor]:
    pool, inference, output = PoolSettings(threads=1), InferenceSettings(), output or OutputSettings()
    return [StageActor(StageWork(folder, stage, pool, inference, output, "run"), ledger) for stage in range(2)]


def fresh_rows(images: np.ndarray, unreadable: tuple[int, ...] = ()) -> pa.Table:
    count = len(images)
    return work_table(
        image_ids=np.arange(count),
        uris=[f"/{k}.jpg" for k in range(count)],
        images=[None if k in unreadable else image for k, image in enumerate(images)],
        status=["unreadable" if k in unreadable else "ok" for k in range(count)],
        errors=["empty file" if k in unreadable else None for k in range(count)],
        shape=(SIZE, SIZE, 3),
    )


def through(stages: list[StageActor], table: pa.Table, batch: int) -> pa.Table:
    """Every stage in batches of so many rows, as Ray Data would call it."""
    for stage in stages:
        table = pa.concat_tables([stage(table.slice(start, batch)) for start in range(0, len(table), batch)])
    return table


def middle(bundle: Bundle) -> float:
    assert bundle.frontier is not None
    return 0.5 * (bundle.frontier.minimum_gflops + bundle.frontier.maximum_gflops)


def test_under_a_fixed_policy_labels_are_those_of_the_loop_in_one_process(bundle_folder: str) -> None:
    bundle, images = load_bundle(bundle_folder), blocks_of_colour(COUNT, seed=2)
    ledger = a_ledger(bundle, middle(bundle), fixed=True)
    rows = through(actors(bundle_folder, ledger), fresh_rows(images), batch=5)
    assert rows.schema == LABEL_SCHEMA
    cascade = bundle.cascade()
    policy = bundle.frontier.at(middle(bundle))  # type: ignore[union-attr]
    alone = run_cascade(cascade, images, policy.thresholds_for(np.arange(COUNT)))
    assert len(set(alone.exit.tolist())) > 1  # else this test would not see a wrong threshold
    assert rows["label_id"].to_pylist() == alone.label_id.tolist()
    assert rows["exit"].to_pylist() == [cascade.exits[k].name for k in alone.exit]
    assert (rows["gflops"].to_numpy() * GIGA).round().tolist() == alone.macs.tolist()
    calibrated = bundle.calibrator
    assert calibrated is not None
    np.testing.assert_allclose(rows["confidence"].to_numpy(), calibrated(alone.score, alone.exit), atol=1e-5)


def test_the_likeliest_classes_and_the_embedding_are_those_of_the_exit_taken(bundle_folder: str) -> None:
    bundle, images = load_bundle(bundle_folder), blocks_of_colour(COUNT, seed=2)
    plain = through(actors(bundle_folder, a_ledger(bundle, middle(bundle), fixed=True)), fresh_rows(images), batch=5)
    asked = actors(bundle_folder, a_ledger(bundle, middle(bundle), fixed=True), OutputSettings(top_k=2, embedding=True))
    rows = through(asked, fresh_rows(images, unreadable=(3,)), batch=5)
    assert rows.schema.names == [*LABEL_SCHEMA.names, "top", "embedding"]
    assert (rows["top"][3].as_py(), rows["embedding"][3].as_py()) == (None, None)
    kept = [k for k in range(COUNT) if k != 3]
    assert rows["label"].take(kept).equals(plain["label"].take(kept))
    sizes = {each.name: each.embedding for each in bundle.cascade(Placement(embedding=True)).exits}
    assert len(set(rows["exit"].to_pylist()) - {None}) > 1
    for row in rows.take(kept).to_pylist():
        first, second = row["top"]
        assert first == {"label": row["label"], "probability": pytest.approx(row["score"], abs=1e-6)}
        assert first["probability"] >= second["probability"] > 0
        assert len(row["embedding"]) == sizes[row["exit"]]
    first_exit = bundle.cascade().exits[0].name
    pixels = normalise(torch.from_numpy(images).permute(0, 3, 1, 2))
    features = bundle.networks["anchornet"](pixels).features.mean((2, 3)).detach().numpy()
    for k in kept:
        if rows["exit"][k].as_py() == first_exit:
            found = np.array(rows["embedding"][k].as_py(), np.float32)
            step = float(
                np.finfo(np.float16).smallest_subnormal
            )  # networks that were never trained say next to nothing
            np.testing.assert_allclose(found, features[k].astype(np.float16), rtol=1e-3, atol=step)


def test_the_ledger_hears_of_every_multiply_add_and_of_every_image(bundle_folder: str) -> None:
    bundle = load_bundle(bundle_folder)
    ledger = a_ledger(bundle, middle(bundle), fixed=False)
    stages = actors(bundle_folder, ledger)
    rows = through(stages, fresh_rows(blocks_of_colour(COUNT, seed=2)), batch=4)
    for stage in stages:
        stage._purse.give_back(now=True)
    report = ledger.ledger.report()
    assert report["spent_macs"] == sum(round(value * GIGA) for value in rows["gflops"].to_pylist())
    assert report["spent_macs"] <= report["asked_macs"]
    names = [each.name for each in bundle.cascade().exits]
    counted = [rows["exit"].to_pylist().count(name) for name in names]
    assert report["exits_realised"] == counted
    assert sum(counted) == report["num_seen"] == COUNT
    assert report["num_open"] == 0
    went_on = [image_id for image_id, name in enumerate(rows["exit"].to_pylist()) if name != names[0]]
    for stage_index, computed in enumerate((list(range(COUNT)), went_on)):
        stated = [s.image_ids.tolist() for s in ledger.statements if s.stage == stage_index]
        assert sorted(itertools.chain.from_iterable(stated)) == computed


def test_unreadable_images_are_skipped_once_and_keep_their_reason(bundle_folder: str) -> None:
    bundle = load_bundle(bundle_folder)
    ledger = a_ledger(bundle, middle(bundle), fixed=False, images=4)
    table = fresh_rows(blocks_of_colour(4, seed=3), unreadable=(1, 2))
    rows = through(actors(bundle_folder, ledger), table, batch=2)
    assert ledger.skipped == [1, 2]
    assert rows["status"].to_pylist() == ["ok", "unreadable", "unreadable", "ok"]
    assert rows["error"].to_pylist() == [None, "empty file", "empty file", None]
    assert ledger.ledger.num_unseen == 0


def test_a_batch_that_nobody_wants_the_stage_for_costs_nothing(bundle_folder: str) -> None:
    ledger = a_ledger(load_bundle(bundle_folder), 0.2, fixed=False)
    rows = through(actors(bundle_folder, ledger), fresh_rows(blocks_of_colour(3, seed=4), unreadable=(0, 1, 2)), 3)
    assert rows["gflops"].to_pylist() == [0.0] * 3
    assert ledger.ledger.charged_macs == 0


def test_what_an_earlier_start_spent_is_spent(bundle_folder: str) -> None:
    bundle = load_bundle(bundle_folder)
    first_macs = bundle.cascade().exits[0].macs
    earlier = MarkState(authorised_macs=2 * first_macs, epoch=1, session="before")
    ledger = a_ledger(bundle, 1.2 * first_macs / GIGA, fixed=False, images=3, mark=earlier)
    rows = through(actors(bundle_folder, ledger), fresh_rows(blocks_of_colour(3, seed=5)), batch=3)
    assert sorted(rows["status"].to_pylist()) == ["failed", "failed", "ok"]
    assert set(rows["error"].to_pylist()) == {None, BUDGET_EXHAUSTED}
    assert ledger.ledger.report()["spent_macs"] <= ledger.ledger.plan.budget_macs


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Networks that refuse batches with a black image in them; called with the network's class, from then on."""

    def make(name: str) -> None:
        network = {"AnchorNet": AnchorNet, "TinyClassifier": TinyClassifier}[name]
        forward = network.forward

        def refuse(self: nn.Module, x: Tensor) -> Any:
            if len(x) and bool((x.flatten(1).amax(1) < BLACK).any()):
                raise ArithmeticError("a black image")
            return forward(self, x)

        monkeypatch.setattr(network, "forward", refuse)

    return make


BLACK = -1.5
"""Below what any normalised pixel but a black one is."""


@pytest.mark.parametrize("network", ["AnchorNet", "TinyClassifier"])
def test_an_image_that_a_network_throws_on_fails_alone_and_the_bound_holds(
    bundle_folder: str, picky: Callable[[str], None], network: str
) -> None:
    bundle, images = load_bundle(bundle_folder), blocks_of_colour(COUNT, seed=2)
    assert bundle.frontier is not None
    most = bundle.frontier.maximum_gflops
    ledger = a_ledger(bundle, 4 * most, fixed=False)
    stages = actors(bundle_folder, ledger)
    images[5] = 0
    picky(network)
    rows = through(stages, fresh_rows(images), batch=8)
    for stage in stages:
        stage._purse.give_back(now=True)
    assert rows.schema == LABEL_SCHEMA
    assert rows["status"].to_pylist() == ["failed" if k == 5 else "ok" for k in range(COUNT)]
    assert rows["error"].to_pylist()[5] == "ArithmeticError: a black image"
    assert rows["label"].to_pylist().count(None) == rows["exit"].to_pylist().count(None) == 1
    report = ledger.ledger.report()
    in_labels = sum(round(value * GIGA) for value in rows["gflops"].to_pylist())
    assert in_labels < report["spent_macs"] <= report["asked_macs"]  # what was tried and thrown away is paid for
    assert (report["num_seen"], report["num_open"]) == (COUNT, 0)


def test_a_network_that_throws_on_every_image_stops_the_job(bundle_folder: str, picky: Callable[[str], None]) -> None:
    ledger = a_ledger(load_bundle(bundle_folder), 2.0, fixed=False)
    stages = actors(bundle_folder, ledger)
    picky("AnchorNet")
    with pytest.raises(ArithmeticError, match="a black image"):
        through(stages, fresh_rows(np.zeros((COUNT, SIZE, SIZE, 3), np.uint8)), batch=COUNT)
    assert ledger.ledger.charged_macs <= ledger.ledger.plan.budget_macs
