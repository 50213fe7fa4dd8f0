"""Every module says what is public, and every public function has a trial with odd and wrong inputs."""

import importlib
import importlib.util
import pkgutil
from pathlib import Path

import pytest

import helpers
from tests.inputs.harness import Trial, coverage

HERE = Path(__file__).parent
# single studies and recipes are made of what the rooms measure: their doors are those of the functions that they call; the page room's commands read no
# numbers, and have tests of their own
COMMANDS = ("collection", "execute", "export", "handout", "lab", "new_method")
WITHOUT = ("helpers.studies.", "helpers.recipes.", "helpers.arguments", "helpers.checkout", *(f"helpers.page.{name}" for name in COMMANDS))
MODULES = [
    info.name for info in pkgutil.walk_packages(helpers.__path__, "helpers.") if not info.name.startswith(WITHOUT) and not info.name.endswith("__main__")
]


@pytest.fixture(scope="module")
def trials():
    found = []
    for path in sorted(HERE.glob("test_*.py")):
        if path != Path(__file__):
            spec = importlib.util.spec_from_file_location(f"inputs_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found += [trial for value in vars(module).values() if isinstance(value, (list, tuple)) for trial in value if isinstance(trial, Trial)]
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_has_a_trial(trials, name):
    module = importlib.import_module(name)
    if name.rpartition(".")[2].startswith("_"):
        return
    if not hasattr(module, "__all__"):
        assert Path(module.__file__).name == "__init__.py", f"{name} needs an __all__"
        return
    assert not coverage(module, trials)
