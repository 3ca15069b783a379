"""Systems and recipes by name: found, or refused with what to mend."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from anchornet.images.preprocess import Preprocessing
from anchornet.models.training_settings import ClassifierRecipe
from anchornet.systems.anchornet.settings import AnchorNetRecipe, AnchorNetSettings, GlanceRecipe, PatchRecipe
from anchornet.systems.anchornet.system import ROLES
from anchornet.systems.own import OwnSettings
from anchornet.systems.registry import RecipeSettings, SystemSettings, recipe_code, role_of, system_of
from tests import own_systems
from tests.tiny_bundle import tiny_networks

QUICK = "tests.small_networks:quick"
RECIPES = (
    AnchorNetRecipe(),
    GlanceRecipe(kind="anchornet.glance", architecture=QUICK),
    PatchRecipe(kind="anchornet.patch", architecture=QUICK, anchornet="runs/anchornet"),
    ClassifierRecipe(kind="classifier", architecture=QUICK),
)


def own(name: str) -> OwnSettings:
    return OwnSettings(kind="own", name=name)


def test_a_system_is_the_object_that_its_settings_name() -> None:
    assert system_of(own(own_systems.NAME)) is own_systems.SYSTEM
    assert system_of(AnchorNetSettings()).roles(AnchorNetSettings()) == ROLES


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.nowhere:SYSTEM", "system 'own': cannot import 'tests.nowhere' .*; put it on the Python path"),
        ("tests.own_systems:SYSTEMS", "system 'own': tests.own_systems has no 'SYSTEMS'; correct system.name"),
    ],
)
def test_a_system_that_is_not_there_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        system_of(own(name))


def test_a_system_whose_module_fails_is_refused_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_system.py").write_text("SYSTEM = 1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"importing 'broken_system' ends in ZeroDivisionError: .*; mend that module"):
        system_of(own("broken_system:SYSTEM"))


@pytest.mark.parametrize("name", ["module", "module:", ":attribute", ""])
def test_a_name_is_a_module_and_an_attribute(name: str) -> None:
    with pytest.raises(ValueError, match=rf"system\.name must be module:attribute, got '{name}'; name the object"):
        own(name)


def test_every_system_and_every_recipe_of_the_registry_has_a_kind_of_its_own() -> None:
    for union in (SystemSettings, RecipeSettings):
        kinds = [get_args(cls.__annotations__["kind"]) or cls.__annotations__["kind"] for cls in get_args(union)]
        assert len(set(kinds)) == len(kinds) > 1
    assert {type(recipe) for recipe in RECIPES} == set(get_args(RecipeSettings))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_every_recipe_has_code_that_opens_it(recipe: RecipeSettings) -> None:
    code = recipe_code(recipe)
    assert callable(code.check_recipe)
    assert callable(code.open_recipe)


@pytest.mark.parametrize(
    ("recipe", "role"),
    list(zip(RECIPES, (*ROLES, "classifier"), strict=True)),
    ids=lambda each: getattr(each, "kind", each),
)
def test_a_network_is_called_what_a_bundle_looks_for(recipe: RecipeSettings, role: str) -> None:
    assert role_of(recipe) == role


class TestAnchorNet:
    """What AnchorNet's system says of itself."""

    @pytest.mark.parametrize(("size", "resize"), [(224, 256), (112, 128), (320, 366)])
    def test_images_are_as_large_as_its_settings_say_with_the_papers_margin(self, size: int, resize: int) -> None:
        settings = AnchorNetSettings(image_size=size)
        assert system_of(settings).preprocessing(settings) == Preprocessing(crop=size, resize=resize)

    def test_it_is_compared_with_its_glance_and_with_patches_of_its_own_choice_and_at_random(self) -> None:
        settings = AnchorNetSettings(num_patches=2)
        system, networks = system_of(settings), tiny_networks()
        cascade = system.cascade(settings, networks, ("a", "b", "c"), own_systems.Placement())
        found = system.references(settings, networks, ("a", "b", "c"), own_systems.Placement())
        glance, chosen, random = found
        assert [each.name for each in found] == ["glance alone", "AnchorNet's patches alone", "random patches alone"]
        assert (glance.exits, chosen.exits, random.exits) == (("glance",), ("patch1", "patch2"), ("patch1", "patch2"))
        for reference in found:
            assert set(reference.exits) <= {each.name for each in reference.cascade.exits}
        patch_macs = {each.name: each.macs for each in cascade.exits}["patch1"]
        assert {each.name: each.macs for each in chosen.cascade.exits}["patch1"] == patch_macs
        assert {each.name: each.macs for each in chosen.cascade.exits}["glance"] == 0  # it is not looked at

    def test_a_classifier_in_its_place_is_no_anchornet(self) -> None:
        networks = tiny_networks()
        with pytest.raises(
            ValueError, match=r"anchornet is a TinyClassifier; give the run of recipe anchornet\.anchornet"
        ):
            system_of(AnchorNetSettings()).check(AnchorNetSettings(), {**networks, "anchornet": networks["patch"]}, 3)
