"""The manifests for KubeRay as kustomization.yaml puts them together."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml

from tests.unit.cluster.kuberay_files import CONFIGS, FOLDER, NAMESPACE, Document, documents_of, filled, places


def _identities(documents: list[Document]) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in documents}


def test_the_kustomization_lists_every_file() -> None:
    (kustomization,) = documents_of("kustomization")
    assert kustomization["namespace"] == NAMESPACE
    assert sorted(kustomization["resources"]) == sorted(
        path.name for path in FOLDER.glob("*") if path.name != "kustomization.yaml"
    )


def test_a_selector_applies_the_base_and_each_job_by_itself() -> None:
    for path in FOLDER.glob("*.yaml"):
        for document in documents_of(path.stem):
            if document["kind"] != "Kustomization":
                component = path.stem if path.stem in CONFIGS else "base"
                labels = document["metadata"]["labels"]
                assert labels == {"app.kubernetes.io/part-of": "anchornet", "app.kubernetes.io/component": component}


def test_the_command_fills_in_every_placeholder_and_knows_no_other() -> None:
    used = set()
    for path in FOLDER.glob("*.yaml"):
        lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
        used |= set(re.findall(r"<[^>]*>", "\n".join(lines)))
    assert used == set(places())


def test_kustomize_renders_what_the_files_say_in_our_namespace() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    command = ["kubectl", "kustomize", str(FOLDER)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    documents = list(yaml.safe_load_all(filled(rendered)))
    written = [
        each for path in FOLDER.glob("*.yaml") if path.stem != "kustomization" for each in documents_of(path.stem)
    ]
    assert {each["metadata"].pop("namespace") for each in documents} == {NAMESPACE}
    assert _identities(documents) == _identities(written)
    assert all(document in written for document in documents)
