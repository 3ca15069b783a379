"""What people give as input: folders, single images, and lists in every form that tools write."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchornet.data import inputs, lists, parquet, tars
from anchornet.data.inputs import InputSettings, input_tables, list_input
from anchornet.data.manifest import manifest_table
from anchornet.data.reading import ReadAndDecode
from anchornet.files import storage
from anchornet.images.preprocess import Preprocessing
from tests.small_images import encode, write_parquet
from tests.unit.anchornet.data.test_tars import shard, write_tar


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def listed(path: Path | str, **settings: object) -> list[str]:
    return list_input(InputSettings(path=str(path), **settings))["uri"].to_pylist()  # type: ignore[arg-type]


def write_list(path: Path, /, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


class TestFolders:
    def test_every_file_is_listed_whatever_its_name(self, tmp_path: Path) -> None:
        names = ["_DSC0001.JPG", "_raw/a b#1%20.jpg", "deep/er/é.png", "notes.txt", "übung/_MG_1.jpg"]
        assert listed(write(tmp_path, *names)) == [f"{tmp_path}/{name}" for name in sorted(names)]

    def test_hidden_files_and_what_spark_leaves_are_not(self, tmp_path: Path) -> None:
        write(tmp_path, "a.jpg", ".DS_Store", ".git/b.jpg", "c/.hidden.jpg", "_SUCCESS", "_temporary/0/d.jpg")
        assert listed(tmp_path) == [f"{tmp_path}/a.jpg"]

    def test_nothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has no files; give a folder with images, an image or a list of names"):
            listed(write(tmp_path, ".hidden"))
        with pytest.raises(
            ValueError, match="nowhere does not exist; give a folder, an s3:// or gs:// prefix, an image"
        ):
            listed(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="does not exist; give a folder"):
            listed(write(tmp_path, "file") / "file" / "below")

    def test_columns_of_what_is_no_list_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"is no list, so there are no columns for input\.carry_columns"):
            listed(write(tmp_path, "a.jpg"), carry_columns=("id",))
        with pytest.raises(ValueError, match=r"there are no columns for input\.uri_column"):
            listed(tmp_path / "a.jpg", uri_column="id")

    def test_what_may_not_be_read_is_the_users_to_mend(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def locked(folder: str) -> None:  # chmod would not lock root out
            raise PermissionError(13, "Permission denied", folder)

        monkeypatch.setattr("os.scandir", locked)
        with pytest.raises(ValueError, match=r"may not be read \(.*Permission denied.*; change its permissions"):
            listed(tmp_path)


@pytest.mark.parametrize("name", ["photo.jpg", "PHOTO.JPG", "no-ending", "photo.parquet.png"])
def test_a_single_image_is_an_input(name: str, tmp_path: Path) -> None:
    write(tmp_path, name)
    assert listed(tmp_path / name) == [str(tmp_path / name)]
    assert listed(f"file://{tmp_path}/{name}") == [str(tmp_path / name)]


@pytest.mark.s3
def test_inputs_in_a_bucket(s3_bucket: str) -> None:
    storage.write_bytes(s3_bucket + "/photos/a.jpg", b"x")
    storage.write_bytes(s3_bucket + "/photos/LIST.CSV", b"path\na.jpg\ns3a://other/b.jpg\n")
    assert listed(s3_bucket.replace("s3:", "S3:") + "/photos") == [
        s3_bucket + "/photos/LIST.CSV",
        s3_bucket + "/photos/a.jpg",
    ]
    assert listed(s3_bucket + "/photos/a.jpg") == [s3_bucket + "/photos/a.jpg"]
    # beside the list: a bucket has no working directory
    assert listed(s3_bucket + "/photos/LIST.CSV") == [s3_bucket + "/photos/a.jpg", "s3://other/b.jpg"]
    with pytest.raises(ValueError, match="does not exist; give a folder, an s3:// or gs:// prefix"):
        listed(s3_bucket + "/photo")


class TestParquetFolders:
    """A list as Spark, pandas and Ray write it: a folder of files, and their own files beside them."""

    SPARK = "part-0000{}-3f8e6c1e-0b7c-4b43-8f41-c000.snappy.parquet"

    @pytest.mark.parametrize("folder", ["uris.parquet", "URIS.PARQUET", "uris"])
    def test_spark(self, folder: str, tmp_path: Path) -> None:
        place = write(tmp_path / folder, "_SUCCESS", "._SUCCESS.crc", f".{self.SPARK.format(0)}.crc")
        for number, names in enumerate((["/b.jpg", "/a.jpg"], ["/c.jpg"])):
            write_list(place / self.SPARK.format(number), uri=names)
        assert listed(place) == ["/b.jpg", "/a.jpg", "/c.jpg"]
        assert listed(f"{place}/") == ["/b.jpg", "/a.jpg", "/c.jpg"]

    def test_pandas_with_partitions(self, tmp_path: Path) -> None:
        for day in ("2026-01-02", "2026-01-01"):
            (tmp_path / "uris" / f"day={day}" / "shop=a%20b").mkdir(parents=True)
            write_list(tmp_path / "uris" / f"day={day}" / "shop=a%20b" / "0.parquet", path=[f"/{day}.jpg"])
        table = list_input(InputSettings(path=str(tmp_path / "uris"), carry_columns=("day", "shop")))
        assert table["uri"].to_pylist() == ["/2026-01-01.jpg", "/2026-01-02.jpg"]
        assert table["along_day"].to_pylist() == ["2026-01-01", "2026-01-02"]
        assert table["along_shop"].to_pylist() == ["a b", "a b"]

    def test_ray_and_a_readme(self, tmp_path: Path) -> None:
        write(tmp_path, "README.md", "LICENSE", ".gitattributes")
        write_list(tmp_path / "23_000001_000000.parquet", uri=["/b.jpg"])
        write_list(tmp_path / "23_000000_000000.parquet", uri=pa.array(["/a.jpg"], pa.large_string()))
        assert listed(tmp_path) == ["/a.jpg", "/b.jpg"]

    def test_parts_of_text(self, tmp_path: Path) -> None:
        write(tmp_path / "uris.csv", "_SUCCESS")
        for number in range(2):
            (tmp_path / "uris.csv" / f"part-{number}.csv").write_text(f"uri\n/{number}.jpg\n")
        assert listed(tmp_path / "uris.csv") == ["/0.jpg", "/1.jpg"]

    def test_images_beside_are_in_the_way(self, tmp_path: Path) -> None:
        write(tmp_path, "a.jpg", "b.jpg", "c.jpg")
        write_list(tmp_path / "labels.parquet", uri=["/a.jpg"])
        with pytest.raises(
            ValueError,
            match=r"mixes 3 other files and 1 Parquet files; in the way are the Parquet files: .*labels\.parquet",
        ):
            listed(tmp_path)
        (tmp_path / "labels.parquet").rename(tmp_path / "labels.tar")
        with pytest.raises(ValueError, match=r"in the way are the tars: .*labels\.tar\. Keep one kind"):
            listed(tmp_path)

    def test_what_img2dataset_writes_beside_a_folder_of_images_is_not(self, tmp_path: Path) -> None:
        write(tmp_path, "00000/000.jpg", "00000/000.json", "00000_stats.json")
        write_list(tmp_path / "00000.parquet", url=["https://example.org/a.jpg"])
        assert f"{tmp_path}/00000/000.jpg" in listed(tmp_path)

    def test_a_file_beside_a_folder_of_files_of_its_name_is_read_too(self, tmp_path: Path) -> None:
        (tmp_path / "train").mkdir()
        write_list(tmp_path / "train" / "0.parquet", url=["/a.jpg"])
        write_list(tmp_path / "train.parquet", url=["/b.jpg"])
        assert listed(tmp_path) == ["/b.jpg", "/a.jpg"]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", r"b\.parquet is no Parquet file \(0 bytes; "),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
                r"b\.parquet is a pointer of Git LFS",
            ),
            (b"PAR1 not really", r"b\.parquet is no Parquet file \(15 bytes; "),
        ],
    )
    def test_a_part_that_is_no_parquet_is_named(self, content: bytes, said: str, tmp_path: Path) -> None:
        write_list(tmp_path / "a.parquet", uri=["/a.jpg"])
        (tmp_path / "b.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=said):
            listed(tmp_path)

    def test_a_part_without_the_column_is_named(self, tmp_path: Path) -> None:
        write_list(tmp_path / "a.parquet", uri=["/a.jpg"])
        write_list(tmp_path / "b.parquet", address=["/b.jpg"])
        with pytest.raises(ValueError, match=r"b\.parquet has no column of names \(uri, url, .*\) \(it has address\)"):
            listed(tmp_path)


class TestColumns:
    @pytest.mark.parametrize("name", ["uri", "url", "image_url", "path", "file_name"])
    def test_the_usual_names_are_known(self, name: str, tmp_path: Path) -> None:
        assert listed(write_list(tmp_path / "l.parquet", id=[1], **{name: ["/a.jpg"]})) == ["/a.jpg"]

    def test_the_first_of_them_is_taken_unless_another_is_named(self, tmp_path: Path) -> None:
        path = write_list(tmp_path / "l.parquet", file_name=["/file.jpg"], url=["/url.jpg"], thumb=["/t.jpg"])
        assert listed(path) == ["/url.jpg"]
        assert listed(path, uri_column="thumb") == ["/t.jpg"]
        with pytest.raises(ValueError, match=r"has no column 'thumbnail' \(it has file_name, url, thumb"):
            listed(path, uri_column="thumbnail")

    @pytest.mark.parametrize("column", [["/a.jpg"], pa.array(["/a.jpg"]).dictionary_encode()], ids=["text", "category"])
    def test_text_of_every_make_is_taken(self, column: object, tmp_path: Path) -> None:
        assert listed(write_list(tmp_path / "l.parquet", uri=column)) == ["/a.jpg"]

    def test_numbers_are_no_names(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="column 'uri' must be text, got int64"):
            listed(write_list(tmp_path / "l.parquet", uri=[1, 2]))

    def test_a_column_to_go_along_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"has no column 'id' to go along \(it has uri"):
            listed(write_list(tmp_path / "l.parquet", uri=["/a"]), carry_columns=("id",))


class TestColumnsAlong:
    def test_they_keep_their_types_and_categories_become_text(self, tmp_path: Path) -> None:
        shop = pa.array(["a", "b"]).dictionary_encode()
        path = write_list(tmp_path / "l.parquet", uri=["/a", "/b"], n=[1, 2], shop=shop, tags=[["x"], None])
        table = list_input(InputSettings(path=str(path), carry_columns=("shop", "n", "tags")))
        assert table.schema.field("along_n").type == pa.int64()
        assert table.schema.field("along_shop").type == pa.string()
        assert table.drop_columns("uri").to_pylist() == [
            {"along_shop": "a", "along_n": 1, "along_tags": ["x"]},
            {"along_shop": "b", "along_n": 2, "along_tags": None},
        ]

    def test_text_of_a_csv_stays_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "l.csv").write_bytes(CSV.encode())
        table = list_input(InputSettings(path=str(tmp_path / "l.csv"), carry_columns=("id", "caption", "path")))
        assert table["along_id"].to_pylist() == ["007", "008"]
        assert table["along_caption"].to_pylist() == ["one, two\nthree", ""]
        assert table["along_path"].to_pylist() == ["/a b.jpg", "/ü.jpg"]

    def test_a_column_that_is_null_or_narrower_in_one_part_is_one_column(self, tmp_path: Path) -> None:
        write_list(tmp_path / "a.parquet", uri=["/a"], n=pa.array([1], pa.int32()), s=pa.nulls(1))
        write_list(tmp_path / "b.parquet", uri=["/b"], n=pa.array([2], pa.int64()), s=["x"])
        table = list_input(InputSettings(path=str(tmp_path), carry_columns=("n", "s")))
        assert (table["along_n"].to_pylist(), table["along_s"].to_pylist()) == ([1, 2], [None, "x"])

    def test_types_that_do_not_agree_are_refused(self, tmp_path: Path) -> None:
        write_list(tmp_path / "a.parquet", uri=["/a"], n=[1])
        write_list(tmp_path / "b.parquet", uri=["/b"], n=["one"])
        with pytest.raises(ValueError, match=r"a\.parquet and the files after it hold a column in different types"):
            listed(tmp_path, carry_columns=("n",))
        assert listed(tmp_path) == ["/a", "/b"]

    @pytest.mark.parametrize("names", [("a", "a"), ("label", "input_label")])
    def test_two_of_one_name_are_refused(self, names: tuple[str, ...]) -> None:
        with pytest.raises(ValueError, match="would give the labels a column twice"):
            InputSettings(path="p", carry_columns=names)


CSV = 'id,path,caption\n007,/a b.jpg,"one, two\nthree"\n008,/ü.jpg,\n'
FORMS: dict[str, bytes] = {
    "l.csv": CSV.encode(),
    "L.CSV": CSV.encode(),
    "bom.csv": b"\xef\xbb\xbf" + CSV.encode(),
    "windows.csv": CSV.replace("\n", "\r\n").encode(),
    "semicolons.csv": 'id;path;caption\n007;/a b.jpg;"one, two\nthree"\n008;/ü.jpg;\n'.encode(),
    "l.tsv": 'id\tpath\tcaption\n007\t/a b.jpg\t"one, two\nthree"\n008\t/ü.jpg\t\n'.encode(),
    "l.csv.gz": gzip.compress(CSV.encode()),
    "l.txt": "/a b.jpg\n/ü.jpg\n".encode(),
    "end.txt": "\ufeff/a b.jpg\r\n\r\n/ü.jpg".encode(),
    "l.jsonl": b'{"id": "007", "path": "/a b.jpg"}\n\n{"path": "/\\u00fc.jpg", "when": "2026-01-01"}\n',
    "l.ndjson": '{"path": "/a b.jpg"}\r\n{"path": "/ü.jpg"}'.encode(),
    "l.json": json.dumps([{"path": "/a b.jpg"}, {"path": "/ü.jpg"}], indent=1).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_lists_of_text(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FORMS[name])
    assert listed(tmp_path / name) == ["/a b.jpg", "/ü.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.csv", b"path,id\n/a.jpg\n", r"is no table that can be read \(.*mend it"),
        ("l.csv", b"", "is no table that can be read"),
        ("l.csv", b"/data/a.jpg\n/data/b.jpg\n", "has no column of names .*set input.uri_column, or .* add a header"),
        ("l.txt", b"gr\xfcn.jpg\n", "is not UTF-8 text .*save it as UTF-8"),
        ("l.txt", b"\n\n", "has no files"),
        ("l.csv.gz", gzip.compress(CSV.encode())[:-9], "cannot be unpacked .*write it again"),
        ("l.jsonl", b'{"uri": "/a"}\n{"uri": "/b"\n', "line 2 is not JSON"),
        ("l.jsonl", b'{"uri": "/a"}\n"/b"\n', "line 2 holds str; write an object per line"),
        ("l.jsonl", b'{"uri": "/a"}\n{"uri": 3}\n', "column 'uri' holds values of several types"),
        ("l.csv", b"uri,n\n/a,1\n,2\n,3\n", "has 2 rows without a name of 3, the first is row 2; remove them"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        listed(tmp_path / name)


@pytest.mark.parametrize("names", [["/a.jpg", None], ["/a.jpg", ""], ["/a.jpg", "  "]], ids=["null", "empty", "blank"])
def test_rows_without_a_name_are_refused_with_their_number(names: list[str | None], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 1 rows without a name of 2, the first is row 2"):
        listed(write_list(tmp_path / "l.parquet", uri=names))


class TestSchemes:
    def test_one_that_is_not_supported_is_a_failed_row_among_others(self, tmp_path: Path) -> None:
        (tmp_path / "good.png").write_bytes(encode(0))
        names = [f"file://{tmp_path}/good.png", "hdfs://cluster/b.jpg"]
        uris = listed(write_list(tmp_path / "l.parquet", uri=names))
        assert uris == [str(tmp_path / "good.png"), "hdfs://cluster/b.jpg"]
        rows = ReadAndDecode(Preprocessing(), 10**6, 4)(manifest_table(uris, 0).sort_by("image_id"))
        assert rows["status"].to_pylist() == ["ok", "failed"]
        assert (
            "'hdfs://cluster/b.jpg': only local paths, s3:// and gs:// URIs are supported" in rows["error"][1].as_py()
        )

    def test_a_list_of_nothing_else_is_refused(self, tmp_path: Path) -> None:
        names = ["https://example.org/a.jpg", "ftp://example.org/b.jpg"]
        with pytest.raises(ValueError, match="not one of its 2 rows can be read; row 1: storage 'https://example"):
            listed(write_list(tmp_path / "l.parquet", uri=names))

    def test_every_spelling_of_a_place_is_one_place(self, tmp_path: Path) -> None:
        names = ["s3a://b/k", "S3://b/k", "file:/data/x%20y.jpg", "gs://b/k"]
        assert listed(write_list(tmp_path / "l.parquet", uri=names)) == [
            "s3://b/k",
            "s3://b/k",
            "/data/x y.jpg",
            "gs://b/k",
        ]


class TestRelativeNames:
    def test_they_lie_beside_the_list_when_the_first_does(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "data", "images/a.jpg")
        (tmp_path / "data" / "metadata.jsonl").write_text(
            '{"file_name": "/elsewhere.jpg"}\n{"file_name": "images/a.jpg"}\n{"file_name": "images/b.jpg"}\n'
        )
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / "data" / "images"
        assert listed("data/metadata.jsonl") == ["/elsewhere.jpg", f"{folder}/a.jpg", f"{folder}/b.jpg"]

    def test_else_in_the_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "list.txt").write_text("photos/a.jpg\n")
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        assert listed(tmp_path / "list.txt") == [f"{tmp_path}/work/photos/a.jpg"]


def test_a_limit_takes_the_first_of_the_listing(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "c.jpg", "a.jpg", "b.jpg")
    chosen = listed(folder, limit=2)
    assert chosen == [str(folder / "a.jpg"), str(folder / "b.jpg")]
    path = write_list(tmp_path / "list.parquet", uri=chosen[::-1])
    assert listed(path, limit=1) == [str(folder / "b.jpg")]  # a list of one's own keeps its order


@pytest.mark.parametrize("name", ["limit", "max_pixels", "decode_cpus", "read_threads"])
def test_numbers_that_cannot_work_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"input\.{name} must be > 0"):
        InputSettings(path="p", **{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"input\.path is empty; give a folder"):
        InputSettings(path=path)


class TestManyRows:
    """A listing comes in parts, and is the same whatever their size."""

    @pytest.fixture
    def small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inputs, "BATCH_ROWS", 4)
        for module in (lists, parquet, tars):
            monkeypatch.setattr(module, "AT_ONCE_ROWS", 3)

    @pytest.fixture
    def places(self, tmp_path: Path) -> list[tuple[str, tuple[str, ...]]]:
        """Inputs of every kind with the columns of theirs that go along."""
        write(tmp_path / "folder", *(f"{k}/{k}.jpg" for k in range(11)))
        uris = [f"/{k}.jpg" for k in range(7)]
        for name in ("a", "b"):
            (tmp_path / "list").mkdir(exist_ok=True)
            pq.write_table(
                pa.table({"uri": uris, "n": range(7)}), tmp_path / "list" / f"{name}.parquet", row_group_size=5
            )
        (tmp_path / "l.txt").write_text("\n".join(uris))
        write_parquet(str(tmp_path / "images.parquet"), 11, group_rows=4)
        write_tar(tmp_path / "t.tar", shard(0, 7))
        kinds = {"folder": (), "list": ("n",), "l.txt": (), "images.parquet": ("label",), "t.tar": ("key", "sku")}
        return [(str(tmp_path / name), carry) for name, carry in kinds.items()]

    def test_they_come_in_parts(
        self, places: list[tuple[str, tuple[str, ...]]], request: pytest.FixtureRequest
    ) -> None:
        all_settings = [InputSettings(path=path, carry_columns=carry) for path, carry in places]
        whole = [list_input(settings) for settings in all_settings]
        assert [len(list(input_tables(settings))) for settings in all_settings] == [1] * 5
        request.getfixturevalue("small_parts")
        for settings, expected in zip(all_settings, whole, strict=True):
            tables = list(input_tables(settings))
            assert {len(table) for table in tables[:-1]} == {4}
            assert pa.concat_tables(tables).equals(expected)
            limited = list(
                input_tables(InputSettings(path=settings.path, carry_columns=settings.carry_columns, limit=5))
            )
            assert [len(table) for table in limited] == [4, 1]
            assert pa.concat_tables(limited).equals(expected.slice(0, 5))

    def test_rows_without_a_name_are_counted_over_all_parts(self, small_parts: None, tmp_path: Path) -> None:
        write_list(tmp_path / "a.parquet", uri=["/0", "/1", "/2", "/3", None])
        write_list(tmp_path / "b.parquet", uri=["/5", " "])
        with pytest.raises(ValueError, match="has 2 rows without a name of 7, the first is row 5"):
            list(input_tables(InputSettings(path=str(tmp_path))))

    def test_one_name_that_can_be_read_is_enough(self, small_parts: None, tmp_path: Path) -> None:
        names = [f"http://h/{k}" for k in range(8)]
        assert listed(write_list(tmp_path / "l.parquet", uri=[*names, "/a.jpg"])) == [*names, "/a.jpg"]
        with pytest.raises(ValueError, match=r"not one of its 8 rows can be read; row 1: storage 'http://h/0'"):
            listed(write_list(tmp_path / "l.parquet", uri=names))

    def test_the_first_relative_name_decides_for_all_parts(self, small_parts: None, tmp_path: Path) -> None:
        write(tmp_path, "x/4.jpg")
        names = [f"/{k}.jpg" for k in range(4)] + [f"x/{k}.jpg" for k in range(4, 9)]
        expected = names[:4] + [f"{tmp_path}/{name}" for name in names[4:]]
        assert listed(write_list(tmp_path / "l.parquet", uri=names)) == expected


@given(st.text("ab./~: ü\n", max_size=8).map(lambda tail: "/" + tail) | st.text("s3g:/.a~", max_size=9))
def test_names_that_pass_for_plain_are_in_the_projects_form(name: str) -> None:
    if pa.compute.match_substring_regex(pa.array([name]), lists._PLAIN)[0].as_py():
        assert storage.absolute(name) == name
        assert name.strip()
        assert not storage.is_relative(name)


class TestSharedCases:
    """The small inputs that people stumbled over, where they are there."""

    def test_a_folder_of_parquet(self, cases: Path) -> None:
        assert listed(cases / "uris_as_folder.parquet") == ["/data/x.jpg"]

    def test_file_uris(self, cases: Path) -> None:
        assert listed(cases / "uris_file_scheme.parquet") == ["/data/x.jpg"]

    def test_a_name_that_is_empty(self, cases: Path) -> None:
        with pytest.raises(ValueError, match="has 1 rows without a name of 1, the first is row 1"):
            listed(cases / "uris_empty_text.parquet")
