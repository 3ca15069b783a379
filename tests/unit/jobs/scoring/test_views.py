"""What calibration collects: all views of every readable image, in a file, in the order of the images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from anchornet.bundle import assemble_bundle, load_bundle
from anchornet.cascade.run import run_all_exits
from anchornet.systems.anchornet.settings import AnchorNetSettings
from jobs.resources.capacity import Stall
from jobs.scoring import views
from jobs.scoring.exits import ExitWork
from jobs.scoring.views import ViewActor, collect_views
from jobs.settings.common import InferenceSettings, PoolSettings
from tests.tiny_bundle import save_tiny_models
from tests.unit.jobs.scoring.test_exits import images, rows


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> ExitWork:
    folder = tmp_path_factory.mktemp("views")
    assemble_bundle(str(folder / "bundle"), save_tiny_models(str(folder / "models")), AnchorNetSettings())
    return ExitWork(str(folder / "bundle"), PoolSettings(threads=1), InferenceSettings())


def collected(monkeypatch: pytest.MonkeyPatch, work: ExitWork, *batches: pa.Table) -> Any:
    """The table over what actors made of these batches, which come in this order."""
    actor = ViewActor(work)
    monkeypatch.setattr(views, "batches_of", lambda dataset, kind, given: [actor(batch) for batch in batches])
    return collect_views(None, work, load_bundle(work.bundle).as_built(), Stall(1e9, {}))  # type: ignore[arg-type]


def test_views_lie_in_the_order_of_the_images_whatever_came_first(
    work: ExitWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = images(7)
    first, second = rows(pixels[:4], ids=[9, 2, 11, 5], unreadable=(1,)), rows(pixels[4:], ids=[1, 8, 3])
    table = collected(
        monkeypatch, work, first, second.slice(0, 0), pa.concat_tables([second.slice(1), second.slice(0, 1)])
    )
    assert table.image_id.tolist() == [1, 3, 5, 8, 9, 11]
    assert table.label.tolist() == [each % 3 for each in table.image_id]
    expected = run_all_exits(load_bundle(work.bundle).as_built(), pixels[[4, 6, 3, 5, 0, 2]])
    np.testing.assert_allclose(table.read(np.arange(6), 6), expected.views_NVC.numpy(), atol=1e-5)
    np.testing.assert_array_equal(table.cost_macs, expected.cost_NK)
    assert table.views == ("anchornet", "glance", "patch1", "patch2", "patch3", "patch4")
    assert table.exits == ("anchor", "glance", "patch1", "patch2", "patch3", "patch4")


def test_images_without_labels_make_a_table_without(work: ExitWork, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = rows(images(2), ids=[0, 1])
    blind = batch.set_column(batch.column_names.index("label"), "label", pa.array([-1, -1]))
    assert collected(monkeypatch, work, blind).label is None


def test_no_readable_image_is_an_error(work: ExitWork, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="none of the labelled images is readable"):
        collected(monkeypatch, work, rows(images(2), ids=[0, 1], unreadable=(0, 1)))


def test_views_are_those_of_the_cascade_as_it_was_built(work: ExitWork) -> None:
    [answer] = [ViewActor(replace(work))(rows(images(1), ids=[0]))]
    assert answer["views"].type.byte_width == 6 * 3 * 4
    assert answer.column_names == ["image_id", "label", "views", "cost"]
