"""The files of a run: names that never meet, and a folder that holds one run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.shell.run_folder import RunFolder, model_in
from jobs.shell.stops import FolderTakenError

FILES = sorted(
    name for name, value in vars(RunFolder).items() if isinstance(value, property) and name not in {"absolute", "name"}
)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)


@pytest.mark.parametrize("uri", ["runs/a", "/runs/a/", "s3://bucket/a"])
def test_every_file_has_a_name_of_its_own_below_the_folder(uri: str) -> None:
    uris = [getattr(RunFolder(uri), name) for name in FILES]
    assert len(FILES) > 10
    assert len(set(uris)) == len(uris)
    assert all(each.startswith(uri.rstrip("/") + "/") for each in uris)
    assert RunFolder(uri).at("x", "y") == f"{uri.rstrip('/')}/x/y"


def test_a_run_is_named_after_its_folder_and_no_two_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.fullmatch(r"label-[0-9a-f]{6}", RunFolder("s3://bucket/a/label/").name)
    assert RunFolder("runs/label").name == RunFolder(f"{tmp_path}/runs/label").name
    assert RunFolder("s3://bucket/a/label").name != RunFolder("s3://bucket/b/label").name


def test_workers_are_told_where_a_relative_folder_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunFolder("runs/a").absolute.mark == f"{tmp_path}/runs/a/ledger.json"
    assert RunFolder("s3://bucket/a").absolute == RunFolder("s3://bucket/a")


def test_there_is_no_report_before_there_is_one(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    assert folder.read_report() is None
    (tmp_path / "report.json").write_text('{"epochs": 3}')
    assert folder.read_report() == {"epochs": 3}


class TestIdentity:
    def test_the_first_start_decides_and_later_ones_are_compared(self, tmp_path: Path) -> None:
        folder = RunFolder(str(tmp_path))
        folder.check_same({"seed": 1})  # nothing is known yet
        folder.remember({"seed": 1})
        folder.remember({"seed": 2})
        assert json.loads((tmp_path / "identity.json").read_text()) == {"seed": 1}
        folder.check_same({"seed": 1})
        with pytest.raises(
            ValueError, match=r"run folder .* was started with seed 1, got 2; choose another run\.folder"
        ):
            folder.check_same({"seed": 2})

    def test_a_part_that_the_first_start_did_not_have_is_a_difference(self, tmp_path: Path) -> None:
        folder = RunFolder(str(tmp_path))
        folder.remember({"seed": 1})
        with pytest.raises(ValueError, match="was started with crop None, got 96"):
            folder.check_same({"seed": 1, "crop": 96})

    @pytest.mark.parametrize("unknown", [(), [], "", None, 0])
    def test_only_what_is_not_known_yet_is_forgiven(self, tmp_path: Path, unknown: object) -> None:
        folder = RunFolder(str(tmp_path))
        folder.remember({"classes": ["a", "b"], "seed": 1})
        folder.check_same({"classes": unknown, "seed": 1}, forgiven=("classes",))
        with pytest.raises(ValueError, match=r"was started with classes \['a', 'b'\], got"):
            folder.check_same({"classes": unknown, "seed": 1})
        with pytest.raises(ValueError, match=r"was started with classes \['a', 'b'\], got \['b', 'a'\]"):
            folder.check_same({"classes": ["b", "a"], "seed": 1}, forgiven=("classes",))

    @settings(max_examples=40)
    @given(mine=st.dictionaries(st.text(max_size=3), PLAIN, max_size=4))
    def test_what_was_remembered_is_the_same_whatever_it_is(
        self, tmp_path_factory: pytest.TempPathFactory, mine: dict[str, object]
    ) -> None:
        folder = RunFolder(str(tmp_path_factory.mktemp("run")))
        folder.remember(mine)
        folder.check_same(mine)
        folder.check_same({key: tuple(value) if isinstance(value, list) else value for key, value in mine.items()})


def test_a_model_is_found_by_its_run_or_by_its_own_folder(tmp_path: Path) -> None:
    run, model = str(tmp_path), str(tmp_path / "model")
    assert model_in(run) == run  # what is not there is named as it was given
    (tmp_path / "model").mkdir()
    assert model_in(run) == model
    assert model_in(model) == model


def test_a_local_run_folder_is_one_jobs_alone(tmp_path: Path) -> None:
    with RunFolder(str(tmp_path / "run")).alone():
        with (
            pytest.raises(
                FolderTakenError, match=rf"works in the run folder .*run \(process {os.getpid()} on .*\); wait for it"
            ),
            RunFolder(str(tmp_path / "run")).alone(),
        ):
            pytest.fail("two jobs have one run folder")
        with RunFolder(str(tmp_path / "other")).alone():
            pass
    with RunFolder(str(tmp_path / "run")).alone():
        pass


def test_object_storage_has_no_locks() -> None:
    with RunFolder("s3://nobody/asks/for/this").alone():
        pass
