"""docs/inputs.md: every line of its tables is a kind of input that is made here, listed and read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anchornet.data.inputs import InputSettings, list_input
from anchornet.data.listing import DatasetSettings
from anchornet.data.manifest import ROW_GROUP, manifest_table
from anchornet.data.reading import ReadAndDecode
from anchornet.data.sources import list_images
from anchornet.images.decode import decode
from anchornet.images.preprocess import Preprocessing
from jobs.data.manifest_rows import RowGroupContents
from tests.small_images import CLASSES, encode, write_folders, write_parquet, write_tar

PAGE = Path(__file__).resolve().parents[2] / "docs" / "inputs.md"
COUNT = 6
SMALL = Preprocessing.of_size(32)


def lines(heading: str) -> list[str]:
    """The first cells of the table below a heading."""
    section = PAGE.read_text().split(f"## {heading}")[1].split("\n## ")[0]
    return [cell for cell in re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE) if cell != "kind"]


def images(folder: Path) -> list[str]:
    """Images 0 .. COUNT - 1 as files, in the order of their numbers."""
    (folder / "images").mkdir()
    for number in range(COUNT):
        (folder / "images" / f"{number}.png").write_bytes(encode(number))
    return [f"{folder}/images/{number}.png" for number in range(COUNT)]


def parquet_list(folder: Path) -> Path:
    names = images(folder)
    (folder / "l.parquet").mkdir()
    (folder / "l.parquet" / "_SUCCESS").touch()
    for part in range(2):
        pq.write_table(pa.table({"url": names[part * 3 : part * 3 + 3]}), folder / "l.parquet" / f"part-{part}.parquet")
    return folder / "l.parquet"


def text_list(name: str, write: Callable[[list[str]], str]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(write(images(folder)))
        return folder / name

    return make


def folder_of(write: Callable[[str, int], str], ending: str) -> Callable[[Path], Path]:
    """A folder with a README and one file of containers."""

    def make(folder: Path) -> Path:
        (folder / "set").mkdir()
        (folder / "set" / "README.md").write_text("about the data")
        write(f"{folder}/set/part{ending}", COUNT)
        return folder / "set"

    return make


def single_image(folder: Path) -> Path:
    images(folder)
    return folder / "images" / "0.png"


def image_folder(folder: Path) -> Path:
    images(folder)
    return folder / "images"


TO_LABEL: dict[str, Callable[[Path], Path]] = {
    "folder": image_folder,
    "image": single_image,
    "list in Parquet": parquet_list,
    "list in CSV": text_list("l.CSV", lambda names: "id;path\n" + "".join(f"1;{name}\n" for name in names)),
    "list in text": text_list("l.txt", lambda names: "\n".join(names)),
    "list in JSON": text_list("l.jsonl", lambda names: "".join(json.dumps({"uri": name}) + "\n" for name in names)),
    "images in Parquet": folder_of(write_parquet, ".parquet"),
    "tars": folder_of(write_tar, ".tar"),
}
TO_LEARN: dict[str, Callable[[Path], Path]] = {
    "class folders": lambda folder: Path(write_folders(str(folder / "set"), COUNT)),
    "labelled Parquet": folder_of(write_parquet, ".parquet"),
    "labelled tars": folder_of(write_tar, ".tar"),
}


def test_the_page_names_the_kinds_that_are_tested() -> None:
    assert lines("To label") == list(TO_LABEL)
    assert lines("To train, calibrate and evaluate") == list(TO_LEARN)


@pytest.mark.parametrize("kind", TO_LABEL)
def test_it_is_labelled(kind: str, tmp_path: Path) -> None:
    found = list_input(InputSettings(path=str(TO_LABEL[kind](tmp_path))))
    numbers = [0] if kind == "image" else list(range(COUNT))
    table = manifest_table(found["uri"].to_pylist(), 0, found.drop_columns("uri"))
    parts = RowGroupContents("image", 4)(table) if ROW_GROUP in table.column_names else [table]
    rows = pa.concat_tables(ReadAndDecode(SMALL, 10**6, 2)(part) for part in parts).sort_by("image_id")
    assert rows["image_id"].to_pylist() == numbers
    assert set(rows["status"].to_pylist()) == {"ok"}
    pixels = [SMALL(decode(encode(number))).tobytes() for number in numbers]
    assert b"".join(rows["carry_image"].to_pylist()) == b"".join(pixels)


@pytest.mark.parametrize("kind", TO_LEARN)
def test_it_is_learned_from(kind: str, tmp_path: Path) -> None:
    found = list_images(DatasetSettings(path=str(TO_LEARN[kind](tmp_path))), None, seed=0)
    assert found.classes == CLASSES
    read = {}
    for block in found.blocks:
        for chunk, contents in found.read(block, 4):
            labels = [found.classes[label] for label in chunk["label"].to_pylist()]
            read.update(zip(contents, labels, strict=True))
    assert read == {encode(number): CLASSES[number % 2] for number in range(COUNT)}
