"""What calibration and evaluation compute: pools that fit, and batches of images in, exit tables out, without Ray."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from anchornet.bundle import assemble_bundle, save_bundle
from anchornet.cascade.run import run_all_exits
from anchornet.images.decode import decode
from anchornet.images.preprocess import preprocess
from anchornet.systems.anchornet.settings import AnchorNetSettings
from anchornet.systems.registry import system_of
from jobs.data.dataset import ROW_SCHEMA
from jobs.resources.capacity import Capacity, Resources, Stall
from jobs.scoring import exits
from jobs.scoring.exits import CASCADE, FULL, ExitActor, ExitWork, check_pool, exit_names
from jobs.settings.common import InferenceSettings, PoolSettings
from tests import small_classifiers
from tests.small_images import encode
from tests.tiny_bundle import save_tiny_models, tiny_cascade

NAMES = ("anchor", "glance", "patch1", "patch2", "patch3", "patch4")


class TestPool:
    @pytest.mark.parametrize(
        ("pool", "cpus", "gpus"),
        [
            (PoolSettings(), 0.5 + 0.5, 0),
            (PoolSettings(actors=2, max_actors=3, cpus=2), 3 * 2 + 0.5, 0),
            (PoolSettings(actors=3, cpus=0.25, gpus=0.5), 3 * 0.25 + 0.5, 1.5),
        ],
        ids=["the default", "at its largest", "with GPUs"],
    )
    def test_a_local_ray_holds_the_pool_and_a_task_that_reads(
        self, pool: PoolSettings, cpus: float, gpus: float
    ) -> None:
        check_pool(pool, Capacity.fixed(cpus, gpus, one_machine=True))
        said = rf"{pool.largest} actors and a reading task need {cpus:g} logical CPUs and {gpus:g} GPUs, Ray has"
        with pytest.raises(
            ValueError, match=rf"{said} {cpus - 0.25:g} .* and {gpus:g} GPUs: .* lower pool\.actors, pool"
        ):
            check_pool(pool, Capacity.fixed(cpus - 0.25, gpus, one_machine=True))
        if gpus:
            with pytest.raises(ValueError, match=rf"{said} {cpus:g} .* and {gpus - 0.5:g} GPUs: .* lower"):
                check_pool(pool, Capacity.fixed(cpus, gpus - 0.5, one_machine=True))

    def test_on_a_cluster_the_smallest_pool_must_fit(self) -> None:
        pool = PoolSettings(actors=1, max_actors=100, gpus=1)
        check_pool(pool, Capacity.fixed(4, 1))
        check_pool(pool, Capacity(Resources(0, 0), Resources(64, 8)))
        with pytest.raises(ValueError, match="1 actors and a reading task need 1 logical CPUs and 1 GPUs, Ray has 4"):
            check_pool(pool, Capacity.fixed(4))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> ExitWork:
    """The tiny networks as a bundle; its patch network stands in for a full one."""
    folder = tmp_path_factory.mktemp("exits")
    models = save_tiny_models(str(folder / "models"))
    assemble_bundle(str(folder / "bundle"), models, AnchorNetSettings())
    pool = PoolSettings(threads=1)
    return ExitWork(str(folder / "bundle"), pool, InferenceSettings(), references=True, full=models["patch"])


def images(count: int) -> np.ndarray:
    return np.stack([preprocess(decode(encode(index, side=256))) for index in range(count)])


def rows(pixels: np.ndarray, ids: list[int], unreadable: tuple[int, ...] = ()) -> pa.Table:
    """Rows of ROW_SCHEMA; the images at these positions are missing."""
    lost = [k in unreadable for k in range(len(pixels))]
    columns = {
        "image_id": ids,
        "uri": [f"/{each}.png" for each in ids],
        "label": [each % 3 for each in ids],
        "image": [None if gone else image.tobytes() for image, gone in zip(pixels, lost, strict=True)],
        "status": ["unreadable" if gone else "ok" for gone in lost],
        "error": ["empty file" if gone else None for gone in lost],
    }
    return pa.table(columns, schema=ROW_SCHEMA)


def test_exits_are_named_as_they_are_computed(work: ExitWork) -> None:
    names = exit_names(work)
    assert names[CASCADE] == NAMES
    assert names[FULL] == (FULL,)
    assert names["glance alone"] == ("glance",)  # what comes after is neither shown nor computed
    for patches in ("AnchorNet's patches alone", "random patches alone"):
        assert names[patches] == NAMES
    plain = ExitWork(work.bundle, work.pool, work.inference)
    assert list(exit_names(plain)) == [CASCADE]


def test_an_actor_answers_for_readable_images_as_the_cascade_does(work: ExitWork) -> None:
    pixels = images(4)
    answer = ExitActor(work)(rows(pixels, ids=[7, 5, 9, 6], unreadable=(1,)))
    assert answer["image_id"].to_pylist() == [7, 9, 6]
    assert answer["label"].to_pylist() == [1, 0, 0]
    table = exits._exit_table(answer, CASCADE, NAMES)
    alone = run_all_exits(tiny_cascade(), pixels[[0, 2, 3]])
    np.testing.assert_allclose(table.confidence, alone.confidence, atol=1e-5)
    assert (table.prediction == alone.prediction).all()
    assert (table.cost_macs == alone.cost_NK).all()
    for part, names in exit_names(work).items():
        assert exits._exit_table(answer, part, names).confidence.shape == (3, len(names))


def test_a_batch_without_a_readable_image_has_no_rows(work: ExitWork) -> None:
    plain = ExitWork(work.bundle, work.pool, work.inference)
    answer = ExitActor(plain)(rows(images(2), ids=[0, 1], unreadable=(0, 1)))
    assert len(answer) == 0
    with pytest.raises(ValueError, match="none of the labelled images is readable; look at the column 'error'"):
        exits.gathered([answer], Stall(1e9, {}))


def test_batches_are_gathered_in_whatever_order_they_come(work: ExitWork) -> None:
    batches = [pa.table({"image_id": ids}) for ids in ([2, 3], [], [0])]
    assert exits.gathered(iter(batches), Stall(1e9, {})) == [batches[0], batches[2]]


def test_lists_come_back_as_matrices() -> None:
    score = np.array([[0.25, 0.5], [0.75, 1.0]], np.float32)
    columns = exits._lists("part", score, score.astype(np.int32), (score * 100).astype(np.int64))
    assert list(columns) == ["part_score", "part_prediction", "part_cost"]
    cut = pa.concat_tables([pa.table(columns).slice(1), pa.table(columns).slice(0, 1)])  # chunks, as Ray gives them
    assert (exits.matrix(cut["part_score"], np.float32) == score[::-1]).all()
    cost = exits.matrix(cut["part_cost"], np.int64)
    assert cost.tolist() == [[75, 100], [25, 50]]
    assert cost.dtype == np.int64


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> ExitWork:
    """Two ordinary classifiers."""
    folder = tmp_path_factory.mktemp("members")
    files = small_classifiers.write_weights(folder)
    settings = small_classifiers.settings(members=small_classifiers.members(files))
    parts = system_of(settings).import_weights(settings, files, {}, small_classifiers.CLASSES)
    save_bundle(str(folder / "bundle"), parts, settings)
    return ExitWork(str(folder / "bundle"), PoolSettings(threads=1), InferenceSettings(), references=True)


def test_members_alone_stand_beside_the_cascade(members: ExitWork) -> None:
    assert exit_names(members) == {CASCADE: ("small", "large"), "large alone": ("large",)}


def test_a_full_network_beside_views_that_differ_is_refused(members: ExitWork, work: ExitWork) -> None:
    with pytest.raises(ValueError, match="full is a network for images of one size, the bundle's networks see views"):
        exit_names(replace(members, full=work.full))
    assert exits.whole_side((96, 96, 3)) == 96
