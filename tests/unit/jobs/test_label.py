"""The label job from its configuration to its exit code, where Ray's part is done by a loop in this process."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from anchornet.budget.frontier import fit_frontier
from anchornet.bundle import assemble_bundle, load_bundle, write_calibration
from anchornet.data.manifest import read_manifest
from anchornet.ledger.ledger import FileMark
from anchornet.ledger.mark import MarkState
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.units import GIGA
from jobs import label
from jobs.labelling.plan import LabelPlan
from jobs.resources.capacity import Capacity
from jobs.settings.label import LabelConfig
from jobs.shell.run_folder import RunFolder
from tests.small_images import write_folders
from tests.tiny_bundle import made_up_table, save_tiny_models

IMAGES = 6


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny networks with a frontier fitted on made-up answers: later exits are better."""
    folder = tmp_path_factory.mktemp("label")
    assemble_bundle(str(folder / "bundle"), save_tiny_models(str(folder / "models")), AnchorNetSettings())
    table = made_up_table()
    write_calibration(str(folder / "bundle"), table, fit_frontier(table))
    return str(folder / "bundle")


@dataclass
class World:
    """What Ray would do: every image gets a row for ``cost_macs``, but for the last ``lost`` of them."""

    lost: int = 0
    unreadable: int = 0
    cost_macs: int = 70_000_000
    error: BaseException | None = None
    pipelines: int = 0
    killed: int = 0
    cpus: float = 8.0
    estimated: list[LabelPlan] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    """Files of finished ids that the pipeline finds."""

    def run_pipeline(self, config: LabelConfig, plan: LabelPlan, ledger: Any) -> None:
        self.pipelines += 1
        run = RunFolder(config.run.folder)
        if Path(run.finished_ids).exists():
            self.found = sorted(path.name for path in Path(run.finished_ids).iterdir())
        ids = read_manifest(run.manifest)["image_id"].to_pylist()[: plan.num_images - self.lost]
        bad = [k < self.unreadable for k in range(len(ids))]
        rows = {
            "image_id": pa.array(ids, pa.int64()),
            "status": ["unreadable" if each else "ok" for each in bad],
            "error": pa.array(["empty file" if each else None for each in bad], pa.string()),
            "exit": pa.array([None if each else plan.exits[0] for each in bad], pa.string()),
            "gflops": [0.0 if each else self.cost_macs / GIGA for each in bad],
        }
        for folder in (run.labels, run.finished_ids):
            Path(folder).mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(rows), f"{folder}/rows.parquet")
        self.spent_macs = plan.spent_macs + self.cost_macs * (len(ids) - self.unreadable)
        FileMark(run.mark).write(MarkState(authorised_macs=self.spent_macs).to_bytes())
        if self.error:
            raise self.error

    def start_ledger(self, plan: Any, mark_uri: str) -> Any:
        self.spent_macs = 0
        return SimpleNamespace(
            close=SimpleNamespace(remote=lambda: None),
            report=SimpleNamespace(remote=lambda: {"spent_macs": self.spent_macs}),
            take_notes=SimpleNamespace(remote=list),
        )

    def dry_run(self, config: LabelConfig, bundle: Any, plan: LabelPlan) -> int:
        self.estimated.append(plan)
        return 0

    def kill(self, ledger: Any) -> None:
        self.killed += 1


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    @contextlib.contextmanager
    def session(*arguments: Any) -> Iterator[None]:
        yield

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(label, "ray_session", session)
    monkeypatch.setattr(label, "cluster_capacity", lambda cluster: Capacity.fixed(world.cpus, one_machine=True))
    monkeypatch.setattr(label, "run_pipeline", world.run_pipeline)
    monkeypatch.setattr(label, "start_ledger", world.start_ledger)
    monkeypatch.setattr(label, "dry_run", world.dry_run)
    monkeypatch.setattr(label, "answer", lambda reference: reference)
    monkeypatch.setattr(ray, "kill", world.kill)
    return world


def command(bundle: str, folder: Path, *settings: str) -> list[str]:
    if not (folder / "images").exists():
        write_folders(str(folder / "images"), IMAGES)
    values = [f"run.folder={folder}/run", f"bundle={bundle}", f"input.path={folder}/images"]
    values += ["budget.gflops_per_image=0.2", *settings]
    return [part for value in values for part in ("--set", value)]


def test_the_parts_of_an_input_are_jobs_of_their_own_that_label_every_image_once(
    world: World, bundle: str, tmp_path: Path
) -> None:
    ids = []
    for which in range(1, 5):
        run = f"{tmp_path}/run{which}"
        told = [*command(bundle, tmp_path, f"run.folder={run}"), "--shard", f"{which}/4"]
        assert label.main(told) == label.main(told) == 0
        found = json.loads((Path(run) / "report.json").read_text())
        part = pq.read_table(f"{run}/labels")["image_id"].to_pylist()
        assert (found["images"], found["missing"], found["repeated"], found["complete"]) == (len(part), 0, 0, True)
        ids += part
    assert sorted(ids) == list(range(IMAGES))
    assert world.pipelines == 4
    assert label.main([*command(bundle, tmp_path, f"run.folder={tmp_path}/run5"), "--shard", "4/3"]) == 2


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "report.json").read_text())


def test_every_image_with_a_row_is_success(
    world: World, bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label.main(command(bundle, tmp_path)) == 0
    assert report(tmp_path)["complete"]
    assert report(tmp_path)["budget"]["asked_gflops"] == pytest.approx(0.2 * IMAGES)
    said = capsys.readouterr()
    assert "6 images: 6 ok, 0 unreadable, 0 failed" in said.out
    assert "images   6, of which 0 are labelled already" in said.err  # the plan comes first, beside the progress lines
    assert (world.pipelines, world.killed) == (1, 1)
    assert {"config.yaml", "provenance.json", "identity.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_an_image_without_a_row_is_no_success(world: World, bundle: str, tmp_path: Path) -> None:
    world.lost = 1
    assert label.main(command(bundle, tmp_path)) == 1
    assert report(tmp_path)["missing"] == 1
    success = tmp_path / "run" / "labels" / "_SUCCESS"
    assert not success.exists()
    world.lost = 0
    assert label.main(command(bundle, tmp_path)) == 0
    assert success.read_bytes() == b""
    assert label.main(command(bundle, tmp_path)) == 0
    assert success.exists()


def test_what_is_not_ok_is_together_in_a_file_of_its_own(world: World, bundle: str, tmp_path: Path) -> None:
    world.unreadable = 2
    label.main(command(bundle, tmp_path))
    failures = pq.read_table(tmp_path / "run" / "failures.parquet")
    assert failures["status"].to_pylist() == ["unreadable"] * 2
    assert failures["error"].to_pylist() == ["empty file"] * 2


def test_a_folder_that_gets_more_rows_is_not_whole_meanwhile(world: World, bundle: str, tmp_path: Path) -> None:
    label.main(command(bundle, tmp_path))
    (tmp_path / "run" / "checkpoint" / "rows.parquet").unlink()  # as a retry takes ids away
    world.lost, world.error = 1, RuntimeError("a node died")
    with pytest.raises(RuntimeError, match="a node died"):
        label.main(command(bundle, tmp_path))
    assert not (tmp_path / "run" / "labels" / "_SUCCESS").exists()


@pytest.mark.parametrize(("allowed", "code"), [(1.0, 0), (0.5, 0), (0.2, 1)])
def test_unreadable_images_are_a_failure_from_the_share_on_that_was_set(
    world: World, bundle: str, tmp_path: Path, allowed: float, code: int
) -> None:
    world.unreadable = 3
    assert label.main(command(bundle, tmp_path, f"max_failed_fraction={allowed}")) == code


def test_the_same_command_goes_on_with_what_is_left_and_then_only_reads_its_report(
    world: World, bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.lost = 2
    label.main(command(bundle, tmp_path))
    world.lost = 0
    capsys.readouterr()
    assert label.main(command(bundle, tmp_path)) == 0
    assert "of which 4 are labelled already" in capsys.readouterr().err
    assert report(tmp_path)["labelled_in_this_start"] == 2
    before = report(tmp_path)
    assert label.main(command(bundle, tmp_path)) == 0
    assert world.pipelines == 2
    assert report(tmp_path) == before
    assert "6 images: 6 ok" in capsys.readouterr().out


def test_a_commit_that_was_cut_off_is_computed_again(world: World, bundle: str, tmp_path: Path) -> None:
    label.main(command(bundle, tmp_path))
    ids = tmp_path / "run" / "checkpoint"
    (ids / "rows.pending.parquet").write_bytes((ids / "rows.parquet").read_bytes())
    assert label.main(command(bundle, tmp_path, "budget.gflops_per_image=0.4")) == 0
    assert world.pipelines == 2
    assert world.found == ["rows.pending.parquet"]  # which Ray deletes, with the label file that it belongs to
    assert report(tmp_path)["labelled_in_this_start"] == IMAGES


def test_a_pipeline_that_fails_leaves_its_report_and_no_ledger(world: World, bundle: str, tmp_path: Path) -> None:
    world.lost, world.error = 2, RuntimeError("a node died")
    with pytest.raises(RuntimeError, match="a node died"):
        label.main(command(bundle, tmp_path))
    assert report(tmp_path)["missing"] == 2
    assert world.killed == 1


def test_a_finished_run_whose_report_is_gone_gets_it_again_without_labelling(
    world: World, bundle: str, tmp_path: Path
) -> None:
    label.main(command(bundle, tmp_path))
    (tmp_path / "run" / "report.json").unlink()
    assert label.main(command(bundle, tmp_path)) == 0
    assert report(tmp_path)["complete"]
    assert world.pipelines == 1


def test_a_dry_run_leaves_nothing_that_a_later_start_would_have_to_agree_with(
    world: World, bundle: str, tmp_path: Path
) -> None:
    assert label.main([*command(bundle, tmp_path), "--dry-run"]) == 0
    assert [plan.num_images for plan in world.estimated] == [IMAGES]
    assert world.pipelines == 0
    assert not (tmp_path / "run" / "identity.json").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["pools=[{cpus: 6}, {cpus: 1}]"], "the job would wait for ever"),
        (["budget.gflops_per_image=0.001"], "is below the first exit"),
        (["pools=[{}]"], "pools has 1 entries, the bundle's cascade has 2 stages"),
        (["run.folder="], "run.folder is empty, and would write into the root of the disk"),
        (["input.path="], "input.path is empty"),
        (["input.carry_columns=[sku]"], "is no list, so there are no columns for input.carry_columns"),
    ],
    ids=["pools without room", "too small a budget", "too few pools", "no run folder", "no input", "no columns"],
)
def test_what_cannot_work_is_refused_before_anything_is_computed(
    world: World, bundle: str, tmp_path: Path, settings: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label.main(command(bundle, tmp_path, *settings)) == 2
    assert said in capsys.readouterr().err
    assert world.pipelines == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "l.txt",
            b"https://example.org/a.jpg\nftp://b/c.jpg\n",
            "not one of its 2 rows can be read; row 1: storage 'https:",
        ),
        ("l.csv", b'uri\n""\n', "has 1 rows without a name of 1, the first is row 1"),
        ("l.parquet", b"", "l.parquet is no Parquet file (0 bytes"),
        ("l.csv.gz", b"not packed", "cannot be unpacked"),
        ("a.tar", b"no tar", "does not end as a tar does"),
    ],
)
def test_a_list_that_cannot_be_used_is_the_users_to_mend(
    world: World, bundle: str, tmp_path: Path, name: str, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert label.main(command(bundle, tmp_path, f"input.path={tmp_path}/{name}")) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "run the same command again" not in error
    assert world.pipelines == 0


def test_a_folder_of_other_labels_is_refused(
    world: World, bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label.main(command(bundle, tmp_path))
    assert label.main(command(bundle, tmp_path, "inference.precision=bfloat16")) == 2
    assert "was started with inference.precision 'float32', got 'bfloat16'" in capsys.readouterr().err
    assert world.pipelines == 1


def test_images_that_appear_later_are_not_in_the_run(world: World, bundle: str, tmp_path: Path) -> None:
    label.main(command(bundle, tmp_path))
    (tmp_path / "images" / "left" / "new.png").write_bytes(b"x")
    assert label.main(command(bundle, tmp_path)) == 0
    assert report(tmp_path)["images"] == IMAGES


def test_the_bundle_that_labelled_is_the_one_that_goes_on(
    world: World, bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label.main(command(bundle, tmp_path))
    known = json.loads((tmp_path / "run" / "identity.json").read_text())
    frontier = load_bundle(bundle).frontier
    assert frontier is not None
    assert {known[f"bundle's {part}"] for part in frontier.hashes} == set(frontier.hashes.values())
