"""What a second start of a label run finds, believes and refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.budget.frontier import Frontier, fit_frontier
from anchornet.bundle import Bundle
from anchornet.data.inputs import InputSettings
from anchornet.files import storage
from anchornet.ledger.ledger import TAKEN_OVER
from anchornet.ledger.mark import MarkState
from anchornet.units import GIGA, gflops_text
from benchmarks.tables import synthetic_table
from jobs.labelling.plan import policy_for_the_rest
from jobs.labelling.resume import (
    check_ours,
    count_labelled,
    drop_doubtful_commits,
    identity,
    retry_failed,
    spent_so_far,
)
from jobs.settings.common import InferenceSettings, RunSettings
from jobs.settings.label import BudgetSettings, LabelConfig
from jobs.shell.run_folder import RunFolder
from jobs.shell.stops import FolderTakenError
from tests.tiny_bundle import tiny_bundle


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return fit_frontier(synthetic_table(2000, 0), {"weights": "w1", "cascade": "c1"})


def config(folder: Path) -> LabelConfig:
    return LabelConfig(
        run=RunSettings(folder=str(folder)),
        bundle="b",
        input=InputSettings(path="i"),
        budget=BudgetSettings(gflops_per_image=1.0),
    )


def commit(folder: Path, name: str, rows: int) -> None:
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image_id": list(range(rows))}), folder / "checkpoint" / name)


def test_only_whole_commits_count(tmp_path: Path) -> None:
    assert count_labelled(RunFolder(str(tmp_path))) == 0
    commit(tmp_path, "a.parquet", 3)
    commit(tmp_path, "b.pending.parquet", 5)
    commit(tmp_path, "c.parquet", 7)
    commit(tmp_path, "c.pending.parquet", 7)
    assert count_labelled(RunFolder(str(tmp_path))) == 3
    drop_doubtful_commits(RunFolder(str(tmp_path)))
    left = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert left == ["a.parquet", "b.pending.parquet", "c.pending.parquet"]
    assert count_labelled(RunFolder(str(tmp_path))) == 3


def test_the_spend_of_earlier_starts_is_the_marks(tmp_path: Path) -> None:
    assert spent_so_far(RunFolder(str(tmp_path)), 0) == 0
    storage.write_bytes(RunFolder(str(tmp_path)).mark, MarkState(authorised_macs=12, owner="x").to_bytes())
    assert spent_so_far(RunFolder(str(tmp_path)), 5) == 12


def test_labels_without_a_mark_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds 5 labels but no .*ledger\.json"):
        spent_so_far(RunFolder(str(tmp_path)), 5)


def test_a_run_keeps_to_one_bundle(tmp_path: Path, frontier: Frontier) -> None:
    bundle: Bundle = replace(tiny_bundle(), frontier=frontier)
    run, mine = RunFolder(str(tmp_path)), config(tmp_path)
    run.check_same(identity(mine, bundle))
    run.remember(identity(mine, bundle))
    run.check_same(identity(mine, bundle))
    other = replace(bundle, frontier=replace(frontier, hashes={**frontier.hashes, "weights": "w2"}))
    with pytest.raises(ValueError, match="was started with bundle's weights 'w1', got 'w2'; choose another"):
        run.check_same(identity(mine, other))
    with pytest.raises(ValueError, match=r"inference\.precision 'float32', got 'bfloat16'"):
        run.check_same(identity(replace(mine, inference=InferenceSettings(precision="bfloat16")), bundle))
    with pytest.raises(ValueError, match=r"input\.max_pixels 100000000, got 5; choose another"):
        run.check_same(identity(replace(mine, input=InputSettings(path="i", max_pixels=5)), bundle))
    with pytest.raises(ValueError, match=r"input\.accept_truncated False, got True; choose another"):
        run.check_same(identity(replace(mine, input=InputSettings(path="i", accept_truncated=True)), bundle))
    run.check_same(identity(replace(mine, budget=BudgetSettings(gflops_per_image=9.0), bundle="moved"), bundle))


def test_what_is_left_buys_the_policy_of_what_remains(frontier: Frontier) -> None:
    first = round(frontier.minimum_gflops * GIGA)
    policy = policy_for_the_rest("hard", frontier, 1.1, 1500 * GIGA, 1000, first, 1000)
    assert policy.expected_gflops == pytest.approx(1.5)
    assert policy_for_the_rest("fixed", frontier, 1.1, 1500 * GIGA, 1000, first, 1000).expected_gflops == pytest.approx(
        1.1
    )
    assert policy_for_the_rest("hard", frontier, 1.1, 0, 0, first, 1000).expected_gflops == pytest.approx(1.1)


def test_a_rest_that_buys_less_than_was_asked_for_is_used_as_long_as_it_buys_the_first_exit(frontier: Frontier) -> None:
    first = round(frontier.minimum_gflops * GIGA)
    assert policy_for_the_rest("hard", frontier, 1.5, 1200 * GIGA, 1000, first, 1000).expected_gflops == pytest.approx(
        1.2
    )
    least = policy_for_the_rest("hard", frontier, 1.5, 1000 * first, 1000, first, 1000)
    assert least.expected_gflops == pytest.approx(frontier.minimum_gflops)


def test_a_fresh_budget_below_the_minimum_is_refused_as_such(frontier: Frontier) -> None:
    first = round(frontier.minimum_gflops * GIGA)
    with pytest.raises(ValueError, match="below the first exit"):
        policy_for_the_rest("hard", frontier, 0.5, 500 * GIGA, 1000, first, 1000)


def test_a_rest_that_cannot_be_labelled_is_refused_with_what_is_missing(frontier: Frontier) -> None:
    first = round(frontier.minimum_gflops * GIGA)
    enough = 1.1 * 2000 + (1000 * first - 500 * GIGA) / GIGA
    with pytest.raises(
        ValueError, match=f"gflops_per_image to at least {gflops_text(enough / 2000)} or .*total_gflops to "
    ):
        policy_for_the_rest("hard", frontier, 1.1, 500 * GIGA, 1000, first, 2000)


def test_another_ledgers_mark_is_said_as_what_it_is(tmp_path: Path) -> None:
    check_ours(RunFolder(str(tmp_path)), RuntimeError("something else"))
    with pytest.raises(FolderTakenError, match=f"another job has started in the run folder {tmp_path} and goes on"):
        check_ours(
            RunFolder(str(tmp_path)), RuntimeError(f"ray::exchange() ... RuntimeError: {TAKEN_OVER}; this one stops")
        )


STATUS = {0: "ok", 1: "failed", 2: "unreadable", 3: "failed", 4: "failed", 5: "ok"}


@pytest.fixture
def labelled(tmp_path: Path) -> RunFolder:
    """Two files of labels with their ids; the second has nothing but a failed row."""
    run = RunFolder(str(tmp_path))
    for name, ids in (("a", (0, 1, 2, 3, 5)), ("b", (4,))):
        table = pa.table({"image_id": pa.array(ids, pa.int64()), "status": [STATUS[each] for each in ids]})
        for folder in (run.labels, run.finished_ids):
            Path(folder).mkdir(exist_ok=True)
            pq.write_table(table if folder == run.labels else table.select(["image_id"]), f"{folder}/{name}.parquet")
    return run


def ids_in(folder: str) -> list[int]:
    return sorted(pq.read_table(folder)["image_id"].to_pylist())


def test_failed_rows_are_taken_away_when_they_are_wanted_again(labelled: RunFolder) -> None:
    assert retry_failed(labelled, wanted=False) == 0
    assert ids_in(labelled.labels) == [0, 1, 2, 3, 4, 5]
    storage.write_bytes(labelled.success, b"")
    assert retry_failed(labelled, wanted=True) == 3
    assert not storage.exists(labelled.success)  # whoever dies now leaves no folder that looks whole
    assert ids_in(labelled.labels) == ids_in(labelled.finished_ids) == [0, 2, 5]
    assert count_labelled(labelled) == 3
    assert not storage.exists(labelled.retry)
    storage.write_bytes(labelled.success, b"")
    assert retry_failed(labelled, wanted=True) == 0
    assert storage.exists(labelled.success)


@pytest.mark.parametrize("survived", range(5))
def test_a_retry_that_is_cut_off_is_finished_by_the_next_start(
    labelled: RunFolder, survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off after each of its writes; the next start does not even ask for it."""
    done: list[str] = []

    def dying(change: Callable[..., None]) -> Callable[..., None]:
        def until_then(uri: str, *content: bytes) -> None:
            if len(done) == survived:
                raise KeyboardInterrupt
            done.append(uri)
            change(uri, *content)

        return until_then

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", dying(storage.write_bytes))
        patch.setattr(storage, "delete", dying(storage.delete))
        with pytest.raises(KeyboardInterrupt):
            retry_failed(labelled, wanted=True)
    retry_failed(labelled, wanted=False)
    labels, finished = ids_in(labelled.labels), ids_in(labelled.finished_ids)
    assert labels == finished
    assert labels == ([0, 2, 5] if survived else [0, 1, 2, 3, 4, 5])
