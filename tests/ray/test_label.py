"""The label job end to end on generated images: the pipeline gives what one process gives, whatever its sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.bundle import load_bundle
from anchornet.cascade.run import run_cascade
from anchornet.files import storage
from anchornet.images.decode import decode
from anchornet.images.formats import READ
from anchornet.images.preprocess import preprocess
from anchornet.report.label_counts import label_tables
from jobs import label
from jobs.shell.run_folder import RunFolder
from tests.small_images import tar_of
from tests.workshop import NUM_BAD, NUM_GOOD, Workshop

pytestmark = pytest.mark.ray

SMALL = ["pools.0.batch_size=7", "pools.1.batch_size=5"]


def run(workshop: Workshop, folder: object, *overrides: str, gflops: float | None = None, code: int = 0) -> pa.Table:
    """Run the job; its rows sorted by image_id."""
    budget = gflops or workshop.middle_gflops
    settings = [f"run.folder={folder}", f"bundle={workshop.bundle}", f"input.path={workshop.images}"]
    settings += [f"budget.gflops_per_image={budget}", "max_failed_fraction=0.1", *overrides]
    assert label.main([part for setting in settings for part in ("--set", setting)]) == code
    tables = list(label_tables(RunFolder(str(folder)).labels))
    return pa.concat_tables(tables).sort_by("image_id") if tables else pa.table({})


def report(folder: object) -> dict[str, Any]:
    return json.loads(storage.read_bytes(storage.join(str(folder), "report.json")))


@pytest.fixture(scope="module")
def fixed(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """A run under a fixed policy."""
    folder = tmp_path_factory.mktemp("fixed")
    return folder, run(workshop, folder, "budget.mode=fixed")


def test_every_file_has_a_row(workshop: Workshop, fixed: tuple[Path, pa.Table]) -> None:
    folder, rows = fixed
    assert rows["image_id"].to_pylist() == list(range(NUM_GOOD + NUM_BAD))
    status = dict(zip(rows["uri"].to_pylist(), rows["status"].to_pylist(), strict=True))
    assert {uri for uri, value in status.items() if value == "unreadable"} == set(workshop.bad_uris)
    assert report(folder)["status"] == {"ok": NUM_GOOD, "unreadable": NUM_BAD, "failed": 0}
    errors = rows.filter(pa.array([s == "unreadable" for s in rows["status"].to_pylist()]))["error"].to_pylist()
    assert {"empty file", f"not an image ({READ})"} <= set(errors)


def test_the_pipeline_equals_a_direct_call(workshop: Workshop, fixed: tuple[Path, pa.Table]) -> None:
    good = fixed[1].filter(pa.array([s == "ok" for s in fixed[1]["status"].to_pylist()]))
    bundle = load_bundle(workshop.bundle)
    assert bundle.frontier is not None
    policy = bundle.frontier.at(workshop.middle_gflops)
    pixels = np.stack([preprocess(decode(Path(uri).read_bytes())) for uri in good["uri"].to_pylist()])
    ids = good["image_id"].to_numpy()
    expected = run_cascade(bundle.cascade(), pixels, policy.thresholds_for(ids))
    assert good["label_id"].to_pylist() == expected.label_id.tolist()
    assert good["exit"].to_pylist() == [bundle.frontier.exits[k] for k in expected.exit]
    np.testing.assert_allclose(good["score"].to_numpy(), expected.score, atol=1e-5)
    np.testing.assert_array_equal((good["gflops"].to_numpy() * 1e9).round(), expected.macs)
    assert len(set(good["exit"].to_pylist())) > 1


def test_two_halves_label_every_image_once(workshop: Workshop, fixed: tuple[Path, pa.Table], tmp_path: Path) -> None:
    halves = [
        run(workshop, tmp_path / str(half), "budget.mode=fixed", f"input.shard={half}/2", "max_failed_fraction=0.2")
        for half in (1, 2)
    ]
    assert abs(len(halves[0]) - len(halves[1])) == 1
    labels = {(row["uri"], row["label"], row["exit"], row["status"]) for half in halves for row in half.to_pylist()}
    assert labels == {(row["uri"], row["label"], row["exit"], row["status"]) for row in fixed[1].to_pylist()}
    assert sum(map(len, halves)) == len(labels)
    for half, rows in enumerate(halves, 1):
        found = report(tmp_path / str(half))
        assert sum(found["status"].values()) == found["images"] == len(rows)
        assert found["budget"]["asked_gflops"] == pytest.approx(workshop.middle_gflops * len(rows))


def test_actors_batches_and_what_is_asked_for_beside_change_no_label(
    workshop: Workshop, fixed: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    pools = [*SMALL, "pools.0.actors=2", "pools.1.actors=2"]
    rows = run(workshop, tmp_path, "budget.mode=fixed", "output.top_k=2", "output.embedding=true", *pools)
    same = ["image_id", "uri", "label", "label_id", "exit", "gflops", "boxes", "status", "error"]
    assert rows.select(same).equals(fixed[1].select(same))
    np.testing.assert_allclose(rows["score"].to_numpy(), fixed[1]["score"].to_numpy(), atol=1e-5)
    for row in rows.to_pylist():
        labelled = row["status"] == "ok"
        assert [each["label"] for each in row["top"][:1]] == [row["label"]] if labelled else row["top"] is None
        assert (row["embedding"] is not None and any(row["embedding"])) == labelled


def test_running_again_changes_nothing(workshop: Workshop, fixed: tuple[Path, pa.Table]) -> None:
    folder, rows = fixed
    before = {name: (folder / name).read_bytes() for name in ("report.json", "ledger.json", "config.yaml")}
    assert run(workshop, folder, "budget.mode=fixed").equals(rows)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_hard_budget_is_kept_and_used(workshop: Workshop, tmp_path: Path) -> None:
    run(workshop, tmp_path, *SMALL)
    budget = report(tmp_path)["budget"]
    asked = workshop.middle_gflops * (NUM_GOOD + NUM_BAD)
    assert budget["asked_gflops"] == pytest.approx(asked, rel=1e-6)
    assert budget["in_labels_gflops"] == pytest.approx(budget["spent_gflops"], rel=1e-9)
    assert budget["wasted_gflops"] == pytest.approx(0, abs=1e-9)
    # Of so few images the last batch is a large part, so "used" is loose here; the simulation holds the ledger to 98 %.
    assert 0.85 * asked < budget["spent_gflops"] <= asked


def test_the_smallest_budget_still_labels_everything(workshop: Workshop, tmp_path: Path) -> None:
    rows = run(workshop, tmp_path, *SMALL, gflops=workshop.minimum_gflops)
    assert report(tmp_path)["status"]["ok"] == NUM_GOOD
    # What the unreadable files did not need is free for the others, as soon as the ledger hears of it: some may go on.
    assert NUM_GOOD * workshop.minimum_gflops < sum(rows["gflops"].to_pylist()) + 1e-9
    assert report(tmp_path)["budget"]["used_fraction"] <= 1


def test_a_parquet_of_uris(workshop: Workshop, tmp_path: Path) -> None:
    chosen = [*workshop.good_uris[:3], str(tmp_path / "nowhere.jpg")]
    pq.write_table(pa.table({"uri": chosen}), tmp_path / "list.parquet")
    rows = run(workshop, tmp_path / "run", f"input.path={tmp_path}/list.parquet", "max_failed_fraction=0.25")
    assert rows["uri"].to_pylist() == chosen
    assert rows["status"].to_pylist() == ["ok", "ok", "ok", "failed"]
    assert "FileNotFoundError" in rows["error"].to_pylist()[3]


def test_parquet_of_hugging_face_gives_the_rows_of_its_files(
    workshop: Workshop, fixed: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    uris = fixed[1]["uri"].to_pylist()
    images = [{"bytes": Path(uri).read_bytes(), "path": Path(uri).name} for uri in uris]
    for shard, part in enumerate((slice(0, 20), slice(20, None))):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table(
            {"image": pa.array(images[part], kind), "label": list(range(len(uris)))[part], "name": uris[part]}
        )
        pq.write_table(table, folder / f"train-{shard}.parquet", row_group_size=8)
    (folder / "README.md").write_text("about the data")
    settings = [f"input.path={folder}", "input.carry_columns=[label, name]", "budget.mode=fixed", "rows_per_file=8"]
    rows = run(workshop, tmp_path / "run", *settings, *SMALL)
    same = ["image_id", "label", "label_id", "exit", "gflops", "boxes", "status", "error"]
    assert rows.select(same).equals(fixed[1].select(same))
    assert rows["name"].to_pylist() == uris
    assert rows["input_label"].to_pylist() == rows["image_id"].to_pylist()
    assert rows["uri"][20].as_py() == f"{folder}/train-1.parquet#0"
    # A resume reads again what has no rows, in the midst of row groups too.
    finished = sorted((tmp_path / "run" / "checkpoint").glob("*.parquet"))
    assert len(finished) > 1
    for ids in finished[::2]:
        lost = set(pq.read_table(ids)["image_id"].to_pylist())
        ids.unlink()
        [labels] = [
            path
            for path in (tmp_path / "run" / "labels").glob("*.parquet")
            if set(pq.read_table(path)["image_id"].to_pylist()) == lost
        ]
        labels.unlink()
    assert run(workshop, tmp_path / "run", *settings, *SMALL).select(same).equals(rows.select(same))


def test_tars_give_the_rows_of_their_files(workshop: Workshop, fixed: tuple[Path, pa.Table], tmp_path: Path) -> None:
    uris = fixed[1]["uri"].to_pylist()
    for number, part in enumerate((uris[:20], uris[20:])):
        members = {f"{20 * number + k:06d}.jpg": Path(uri).read_bytes() for k, uri in enumerate(part)}
        storage.write_bytes(f"{tmp_path}/set/{number:05d}.tar", tar_of(members))
    rows = run(
        workshop, tmp_path / "run", f"input.path={tmp_path}/set", "input.carry_columns=[key]", "budget.mode=fixed"
    )
    same = ["image_id", "label", "label_id", "exit", "gflops", "boxes", "status", "error"]
    assert rows.select(same).equals(fixed[1].select(same))
    assert rows["key"].to_pylist() == [f"{k:06d}" for k in range(len(uris))]
    assert rows["uri"][20].as_py() == f"{tmp_path}/set/00001.tar#000020.jpg"


def test_too_many_failures_are_an_exit_code(workshop: Workshop, tmp_path: Path) -> None:
    run(workshop, tmp_path, "max_failed_fraction=0.01", code=1)


def test_dry_run_estimates_and_labels_nothing(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run(workshop, tmp_path, "dry_run=true", "cluster.price_per_hour=2")
    assert len(rows) == 0
    estimate = json.loads((tmp_path / "dry_run.json").read_bytes())
    assert estimate["sampled"] == NUM_GOOD + NUM_BAD
    assert estimate["sampled_ok"] == NUM_GOOD
    assert sum(estimate["exits"].values()) == NUM_GOOD
    assert estimate["money"] == pytest.approx(2 * estimate["wall_h"])
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "GFLOPs per image under the planned policy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pools.0.cpus=4", "pools.1.cpus=4"], "the job would wait for ever"),
        (["budget.gflops_per_image=0.0001"], "below the first exit"),
        (["budget.gflops_per_image=.inf"], "must be a finite number, got inf"),
        (["budget.total_gflops=3"], "give exactly one of budget.total_gflops and budget.gflops_per_image"),
        (["input.path=/nowhere/at/all"], "does not exist"),
        (["bundle=/nowhere/at/all"], "holds no bundle.yaml"),
        (["pools.0.batch_sise=3"], "did you mean 'batch_size'"),
    ],
)
def test_refusals_come_before_the_start(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    run(workshop, tmp_path, *overrides, code=2)
    assert message in capsys.readouterr().err


def test_what_failed_is_tried_again_when_it_is_asked_for(workshop: Workshop, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    paths = [shutil.copy(uri, images / f"{k:02d}.jpg") for k, uri in enumerate(workshop.good_uris[:12])]
    listed, away = tmp_path / "list.txt", tmp_path / "away.jpg"
    listed.write_text("\n".join(map(str, paths)))
    Path(paths[7]).rename(away)
    asked = [f"input.path={listed}", "budget.mode=fixed", "rows_per_file=4"]
    before = run(workshop, tmp_path / "run", *asked)
    assert before["status"].to_pylist() == ["failed" if k == 7 else "ok" for k in range(12)]
    assert "FileNotFoundError" in before["error"].to_pylist()[7]
    away.rename(paths[7])
    assert run(workshop, tmp_path / "run", *asked).equals(before)  # a resume leaves what failed alone
    assert pq.read_table(tmp_path / "run" / "failures.parquet")["uri"].to_pylist() == [str(paths[7])]
    after = run(workshop, tmp_path / "run", *asked, "retry_failed=true")
    assert after["status"].to_pylist() == ["ok"] * 12
    others = [k for k in range(12) if k != 7]
    assert after.take(others).equals(before.take(others))
    found = report(tmp_path / "run")
    assert found["complete"] and found["labelled_in_this_start"] == 1
    assert (tmp_path / "run" / "labels" / "_SUCCESS").exists() and not (tmp_path / "run" / "failures.parquet").exists()


def test_a_run_folder_belongs_to_one_input(workshop: Workshop, fixed: tuple[Path, pa.Table], tmp_path: Path) -> None:
    run(workshop, fixed[0], "input.limit=3", "budget.mode=fixed", code=2)


@pytest.mark.s3
def test_s3_gives_the_rows_of_the_local_run(workshop: Workshop, fixed: tuple[Path, pa.Table], s3_bucket: str) -> None:
    for uri in [*workshop.good_uris, *workshop.bad_uris]:
        storage.write_bytes(uri.replace(workshop.images, f"{s3_bucket}/images"), Path(uri).read_bytes())
    for uri, _ in storage.list_files(workshop.bundle):
        storage.write_bytes(uri.replace(workshop.bundle, f"{s3_bucket}/bundle"), Path(uri).read_bytes())
    there = [f"bundle={s3_bucket}/bundle", f"input.path={s3_bucket}/images", "budget.mode=fixed"]
    rows = run(workshop, f"{s3_bucket}/run", *there)
    local = fixed[1]
    assert [uri.split("/images/")[1] for uri in rows["uri"].to_pylist()] == [
        uri.split("/images/")[1] for uri in local["uri"].to_pylist()
    ]
    same = ["image_id", "label", "exit", "gflops", "boxes", "status", "error"]
    assert rows.select(same).equals(local.select(same))
    assert report(f"{s3_bucket}/run")["complete"]
