"""Every system and every training recipe there is; a new one adds its settings here, and a folder beside this file.

Settings are free of torch. The code behind them is imported when it is asked for, by the name that they give.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from anchornet.models.training_settings import ClassifierRecipe
from anchornet.systems.anchornet.settings import AnchorNetRecipe, AnchorNetSettings, GlanceRecipe, PatchRecipe
from anchornet.systems.models.settings import ModelsSettings
from anchornet.systems.own import OwnSettings

if TYPE_CHECKING:
    from anchornet.systems.system import System

SystemSettings: TypeAlias = AnchorNetSettings | ModelsSettings | OwnSettings
RecipeSettings: TypeAlias = AnchorNetRecipe | GlanceRecipe | PatchRecipe | ClassifierRecipe


def system_of(settings: SystemSettings) -> System:
    """The system that ``settings`` belong to. Raises ValueError when it cannot be imported."""
    module_name, _, attribute = settings.implementation.partition(":")
    module = _import(module_name, f"system {settings.kind!r}")
    system: Any = getattr(module, attribute, None)
    if system is None:
        raise ValueError(f"system {settings.kind!r}: {module_name} has no {attribute!r}; correct system.name")
    return system


def recipe_code(settings: RecipeSettings) -> ModuleType:
    """The module with ``check_recipe`` and ``open_recipe`` for these settings."""
    return _import(settings.implementation, f"recipe {settings.kind!r}")


def role_of(recipe: RecipeSettings) -> str:
    """What a network trained by this recipe is called in its card: the last part of the recipe's kind."""
    return recipe.kind.rpartition(".")[2]


def _import(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{what}: cannot import {name!r} ({error}); put it on the Python path") from error
    except Exception as error:  # a user's module may raise anything
        raise ValueError(
            f"{what}: importing {name!r} ends in {type(error).__name__}: {error}; mend that module"
        ) from error
