"""Listing local folders: links to folders are followed once, and what cannot be listed is counted and named."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchornet.files import local_listing, storage
from anchornet.files.local_listing import BROKEN, HIDDEN, ODD, TWICE, UNREADABLE, LeftOut, walk


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def link(at: Path, to: str | Path) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(to)


def listed(folder: Path) -> list[str]:
    found = walk(str(folder), lambda name: name.startswith("."), LeftOut())
    return [name.removeprefix(f"{folder}/") for name in found]


def every_file(folder: Path) -> list[str]:
    return list(walk(str(folder), lambda name: False, LeftOut()))


def left_out(folder: Path) -> dict[str, list[str]]:
    found = LeftOut()
    list(walk(str(folder), lambda name: name.startswith("."), found))
    assert {kind: len(names) for kind, names in found.names.items()} == found.count  # few enough to be named all
    return {kind: [name.removeprefix(f"{folder}/") for name in names] for kind, names in found.names.items()}


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "x.jpg", "sub/y.jpg")
    link(folder / "latest", ".")
    link(folder / "current", ".")
    link(folder / "sub" / "up", "..")
    assert listed(folder) == ["sub/y.jpg", "x.jpg"]
    assert left_out(folder) == {TWICE: ["current", "latest", "sub/up"]}


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "disk2", "cats/a.jpg", "cats/b.jpg")
    folder = write(tmp_path / "in", "dog/c.jpg")
    link(folder / "cat", tmp_path / "disk2" / "cats")
    assert listed(folder) == ["cat/a.jpg", "cat/b.jpg", "dog/c.jpg"]
    assert left_out(folder) == {}


def test_a_second_link_to_the_same_folder_is_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path / "cats", "a.jpg")
    folder = tmp_path / "in"
    link(folder / "one", tmp_path / "cats")
    link(folder / "two", tmp_path / "cats")
    assert listed(folder) == ["one/a.jpg"]
    assert left_out(folder) == {TWICE: ["two"]}


def test_a_folder_has_its_own_name_and_not_that_of_a_link_to_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "zebra/a.jpg")
    link(folder / "alias", "zebra")
    assert listed(folder) == ["zebra/a.jpg"]


def test_a_link_to_what_contains_the_folder_lists_nothing_twice(tmp_path: Path) -> None:
    write(tmp_path, "in/x.jpg", "y.jpg")
    link(tmp_path / "in" / "up", "..")
    assert listed(tmp_path / "in") == ["up/y.jpg", "x.jpg"]


def test_links_to_files_are_files(tmp_path: Path) -> None:
    folder = write(tmp_path, "blobs/1", "in/own.jpg") / "in"
    link(folder / "a.jpg", "../blobs/1")
    link(folder / "b.jpg", "../blobs/1")
    assert listed(folder) == ["a.jpg", "b.jpg", "own.jpg"]


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    write(tmp_path / "v7", "a.jpg")
    link(tmp_path / "newest", "v7")
    assert every_file(tmp_path / "newest") == [f"{tmp_path}/newest/a.jpg"]


def test_what_is_no_file_is_named_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, "x.jpg", ".hidden/a.jpg", "sub/.b.jpg", "locked/c.jpg")
    link(folder / "annex.jpg", "/nonexistent")
    link(folder / "self", "self")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)
        server.bind("socket")
    scandir: Callable[[str], Any] = os.scandir

    def locked(path: str) -> Any:  # chmod would not lock root out
        if path.endswith("/locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", locked)
    assert listed(folder) == ["x.jpg"]
    assert left_out(folder) == {
        HIDDEN: [".hidden", "sub/.b.jpg"],
        BROKEN: ["annex.jpg", "self"],
        ODD: ["pipe", "socket"],
        UNREADABLE: ["locked"],
    }


def test_the_warning_counts_and_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "a.jpg", ".cat/b.jpg", ".cat/c.jpg", "_SUCCESS", "dog/.d.jpg")
    link(tmp_path / "gone.jpg", "/nonexistent")
    with caplog.at_level(logging.WARNING, "anchornet"):
        assert storage.list_visible(str(tmp_path)) == [f"{tmp_path}/a.jpg"]
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"below {tmp_path} 1 links that lead nowhere are left out, such as {tmp_path}/gone.jpg",
        f"below {tmp_path} 2 hidden files and folders are left out, such as {tmp_path}/.cat, {tmp_path}/dog/.d.jpg",
    ]


@pytest.mark.s3
def test_hidden_keys_are_counted_too(s3_bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    for key in ("a.jpg", ".cat/b.jpg", ".cat/c.jpg", "x/_SUCCESS", "x/.d/e/.f.jpg"):
        storage.write_bytes(f"{s3_bucket}/{key}", b"x")
    with caplog.at_level(logging.WARNING, "anchornet"):
        assert storage.list_visible(s3_bucket) == [f"{s3_bucket}/a.jpg"]
    assert [record.getMessage() for record in caplog.records] == [
        f"below {s3_bucket} 2 hidden files and folders are left out, such as {s3_bucket}/.cat, {s3_bucket}/x/.d"
    ]


def test_a_folder_that_is_all_clean_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage.list_visible(str(write(tmp_path, "a.jpg", "_SUCCESS")))
    assert not caplog.records


def test_a_missing_folder_and_a_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        every_file(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="file"):
        every_file(write(tmp_path, "file") / "file")


TREES = st.lists(st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "b/a/a"]), unique=True, max_size=6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(folders=TREES, links=st.lists(st.tuples(st.sampled_from(["", "a", "b", "b/a"]), TREES), max_size=4))
def test_whatever_the_links_each_file_is_listed_once(
    tmp_path_factory: pytest.TempPathFactory, folders: list[str], links: list[tuple[str, list[str]]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for folder in folders:
        write(root, f"{folder}/x.jpg")
    for number, (place, targets) in enumerate(links):
        (root / place).mkdir(parents=True, exist_ok=True)
        link(root / place / f"link{number}", root / (targets[0] if targets else ""))
    found = every_file(root)
    assert found == sorted(found)
    assert len({Path(name).resolve() for name in found}) == len(found) == len(folders)


NAMES = st.lists(
    st.text(st.sampled_from("aB-./ü~ #\U0001f600\ufffd"), min_size=1, max_size=7).filter(
        lambda name: not {"", ".", ".."} & set(name.split("/"))
    ),
    max_size=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES, chunk=st.integers(1, 5))
def test_the_order_is_that_of_the_sorted_paths(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], chunk: int
) -> None:
    root, made = tmp_path_factory.mktemp("tree"), set()
    for name in names:
        with contextlib.suppress(FileExistsError, IsADirectoryError, NotADirectoryError):  # a file where a folder is
            write(root, name)
            made.add(f"{root}/{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_listing, "CHUNK", chunk)
        assert every_file(root) == sorted(made)


def test_of_many_that_are_left_out_the_first_are_named_and_all_are_counted() -> None:
    left = LeftOut({"_SUCCESS"})
    for name in ("/d", "/b", "/_SUCCESS", "/a", "/c"):
        left.add(HIDDEN, name)
    assert (left.count, left.names) == ({HIDDEN: 4}, {HIDDEN: ["/a", "/b", "/c"]})


def test_the_shared_links(shared_data: Path, tmp_path: Path) -> None:
    script = shared_data / "cases" / "make_links.sh"
    if not script.exists():
        pytest.skip("the shared data has no make_links.sh")
    image = write(tmp_path, "image.jpg") / "image.jpg"
    assert os.spawnlp(os.P_WAIT, "sh", "sh", str(script), str(tmp_path / "made"), str(image)) == 0
    for name in ("one", "two", "broken"):
        assert listed(tmp_path / "made" / name) == ["x.jpg"]
    assert left_out(tmp_path / "made" / "broken") == {BROKEN: ["annex.jpg"]}
