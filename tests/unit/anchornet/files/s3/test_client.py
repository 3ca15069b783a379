"""Which client of S3 the environment asks for."""

from __future__ import annotations

import pytest

from anchornet.files import storage
from anchornet.files.s3 import client


def test_patience_is_set_as_for_amazons_own_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    assert client.attempts() == 12
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    assert client.attempts() == 3
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "many")
    with pytest.raises(ValueError, match="AWS_MAX_ATTEMPTS must be a whole number >= 1, got 'many'; correct it"):
        storage.resolve("s3://bucket/key")


def test_another_endpoint_is_another_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    first, path = storage.resolve("s3://bucket/file")
    assert path == "bucket/file"
    assert storage.resolve("s3://other/file")[0] is first
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    assert storage.resolve("s3://bucket/file")[0] is not first
