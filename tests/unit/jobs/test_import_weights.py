"""A bundle from others' weight files: class names as they are listed, networks as they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from anchornet.bundle import load_bundle
from anchornet.models.card import ModelCard
from anchornet.systems.own import OwnSettings
from anchornet.systems.system import Trained
from anchornet.units import GIGA, gflops_text
from jobs import import_weights
from jobs.settings.import_weights import ImportConfig
from tests import own_systems, small_classifiers
from tests.own_systems import OwnSystem, tiny_net


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("ant\nbee\n", ("ant", "bee")),
        ("tench, Tinca tinca\r\n\r\n  goldfish  \n", ("tench, Tinca tinca", "goldfish")),
        ("Ameise\nKäfer", ("Ameise", "Käfer")),
    ],
    ids=["a line each", "spaces and empty lines", "no end of line"],
)
def test_classes_are_the_lines_in_their_order(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    (tmp_path / "classes.txt").write_bytes(text.encode())
    assert import_weights.read_classes(str(tmp_path / "classes.txt")) == names


def test_a_file_without_a_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n  \n")
    with pytest.raises(ValueError, match=r"classes\.txt names no class; write one name per line, in the order"):
        import_weights.read_classes(str(tmp_path / "classes.txt"))


class Importing(OwnSystem):
    """A system that takes any file for its network, and keeps what it was told."""

    told: tuple[dict[str, str], dict[str, str], tuple[str, ...]] | None = None

    def import_weights(
        self, settings: OwnSettings, files: Mapping[str, str], architectures: Mapping[str, str], classes: Sequence[str]
    ) -> dict[str, Trained]:
        Importing.told = (dict(files), dict(architectures), tuple(classes))
        card = ModelCard(role="net", architecture="tests.own_systems:tiny_net", classes=tuple(classes))
        return {"net": Trained(tiny_net(len(classes)), card)}


def config(folder: Path, **weights: str) -> ImportConfig:
    (folder / "classes.txt").write_text("ant\nbee\ncow\n")
    return ImportConfig(
        bundle=str(folder / "bundle"),
        classes=str(folder / "classes.txt"),
        weights=weights,
        architectures={"net": "any"},
        system=OwnSettings(kind="own", name="tests.own_systems:IMPORTING"),
    )


def test_the_system_makes_the_networks_and_the_next_command_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own_systems, "IMPORTING", Importing(), raising=False)
    assert import_weights.execute(config(tmp_path, net="w.pth")) == 0
    assert Importing.told == ({"net": "w.pth"}, {"net": "any"}, ("ant", "bee", "cow"))
    assert load_bundle(str(tmp_path / "bundle")).classes == ("ant", "bee", "cow")
    assert f"next: python -m jobs.calibrate --set bundle={tmp_path}/bundle" in capsys.readouterr().out


def test_files_of_other_networks_are_refused_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_systems, "IMPORTING", Importing(), raising=False)
    Importing.told = None
    with pytest.raises(ValueError, match="system own has the networks net, got head; give one for each"):
        import_weights.execute(config(tmp_path, head="w.pth"))
    assert Importing.told is None
    assert not (tmp_path / "bundle").exists()


def test_ordinary_classifiers_name_their_files_in_the_members(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "classes.txt").write_text("ant\nbee\ncow\n")
    files = small_classifiers.write_weights(tmp_path)
    system = small_classifiers.settings(members=small_classifiers.members(files))
    told = ImportConfig(bundle=str(tmp_path / "bundle"), classes=str(tmp_path / "classes.txt"), system=system)
    assert import_weights.execute(told) == 0
    loaded = load_bundle(str(tmp_path / "bundle"))
    assert list(loaded.networks) == ["small", "large"]
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[:4]] == ["exit small", "exit large", "network small", "network large"]
    assert said[1] == f"exit large: at most {gflops_text(loaded.cascade().exits[1].macs / GIGA)} GFLOPs"
    assert said[2] == (
        "network small: short side to 36, central 32 x 32, bilinear, mean [0.485, 0.456, 0.406], "
        "std [0.229, 0.224, 0.225] (the settings)"
    )
    elsewhere = replace(told, system=small_classifiers.settings(), weights=files)
    assert import_weights.execute(elsewhere) == 0
    assert load_bundle(str(tmp_path / "bundle")).weights_hash == loaded.weights_hash


def test_a_member_without_a_file_is_named_before_any_is_read(tmp_path: Path) -> None:
    only = {"small": str(tmp_path / "nowhere.pth")}
    system = small_classifiers.settings(members=small_classifiers.members(only))
    told = ImportConfig(bundle="b", classes=str(tmp_path / "nowhere.txt"), system=system)
    with pytest.raises(ValueError, match="system models has the networks small, large, got small; give one for each"):
        import_weights.execute(told)
