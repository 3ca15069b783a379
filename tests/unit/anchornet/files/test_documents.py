"""JSON and YAML documents: what is written comes back, and what is no document is refused by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anchornet.files import documents

TEXTS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=8)
"""Without control characters: of those, YAML keeps only some."""
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), TEXTS)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(TEXTS, PLAIN, max_size=4)


def shuffled(value: object, seed: int) -> object:
    """The same mapping with its keys in another order, at every depth; lists as tuples."""
    if isinstance(value, dict):
        keys = list(value)
        order = np.random.default_rng(seed).permutation(len(keys))
        return {keys[k]: shuffled(value[keys[k]], seed) for k in order}
    return tuple(shuffled(each, seed) for each in value) if isinstance(value, list) else value


@settings(max_examples=40)
@given(DOCUMENTS)
def test_any_plain_document_comes_back_from_yaml_and_from_json(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("documents")
    documents.write_yaml(str(folder / "d.yaml"), content)
    documents.write_json(str(folder / "d.json"), content)
    assert documents.read_yaml(str(folder / "d.yaml")) == content
    assert documents.read_json(str(folder / "d.json")) == content


@given(DOCUMENTS, st.integers(0, 99))
def test_a_digest_is_of_the_content_and_not_of_the_order_of_its_keys(content: dict[str, object], seed: int) -> None:
    assert documents.digest(shuffled(content, seed)) == documents.digest(content)
    assert documents.digest({**content, "one more": 1}) != documents.digest(content)


def test_a_digest_tells_lists_in_another_order_and_numbers_from_text() -> None:
    values = [[1, 2], [2, 1], ["1", 2], {"1": 2}, [[1, 2]], None, "None", [], {}, 1, 1.5, True]
    assert len({documents.digest(value) for value in values}) == len(values)


def test_what_no_document_knows_is_written_as_its_text() -> None:
    value = {1: (np.float32(0.5), Path("a")), "t": torch.float32, "deep": {"list": [np.int64(3)]}}
    assert documents.plain(value) == {"1": ["0.5", "a"], "t": "torch.float32", "deep": {"list": ["3"]}}


def test_yaml_is_for_people(tmp_path: Path) -> None:
    documents.write_yaml(str(tmp_path / "d.yaml"), {"z": "Käfer", "a": [1]})
    assert (tmp_path / "d.yaml").read_text() == "z: Käfer\na:\n- 1\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1\n", "must hold a mapping, got list"),
        ("a: [", "is not valid YAML"),
        ("", "must hold a mapping, got NoneType"),
    ],
)
def test_yaml_that_is_no_mapping_is_refused_by_its_name(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"(?s)card\.yaml {said}.*; write it again"):
        documents.read_yaml(str(tmp_path / "card.yaml"))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    uri = str(tmp_path / "deep" / "report.json")
    documents.write_json(uri, {"images": 3, "exits": ["glance"]})
    assert documents.read_json(uri) == {"images": 3, "exits": ["glance"]}
    assert Path(uri).read_text().endswith("}\n")


def test_damaged_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"images": ')
    with pytest.raises(ValueError, match=r"report\.json is not valid JSON \(.*\); restore the file"):
        documents.read_json(str(tmp_path / "report.json"))
