"""Every module says what is public, and a file here tries all of it with odd and wrong inputs."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import helpers

# single studies and recipes are made of what the rooms measure: their doors are those of the functions that they call; tests/test_arguments.py tries the doors
WITHOUT = ("helpers.studies.", "helpers.recipes.toy_", "helpers.recipes.autoencoders", "helpers.recipes.wide_families", "helpers.arguments", "helpers.checkout",
           "helpers.page.explore")  # fmt: skip
COMMANDS = ("helpers.page.export", "helpers.page.handout")  # read a command line
MODULES = [
    info.name for info in pkgutil.walk_packages(helpers.__path__, "helpers.")
    if not info.name.startswith((*WITHOUT, *COMMANDS)) and not info.ispkg and not info.name.rpartition(".")[2].startswith("_")
]  # fmt: skip
TRIED = "\n".join(text for path in Path(__file__).parent.glob("test_*.py") if "coverage(" in (text := path.read_text(encoding="utf-8")))


def imported() -> set[str]:
    """Modules of the package that the files with trials import, whole or by their names."""
    found = set()
    for node in ast.walk(ast.parse(TRIED)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_is_public_and_has_trials(name):
    assert hasattr(importlib.import_module(name), "__all__"), f"{name} needs an __all__"
    found, package = imported(), name.rpartition(".")[0]
    assert name in found or (package.count(".") > 1 and package in found)  # a method's folder is imported as a whole
