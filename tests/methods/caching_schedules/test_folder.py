"""The folder works alone: copied under another name it runs in a fresh interpreter, and its schedules run without diffusers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.methods import caching_schedules

ROOT = Path(caching_schedules.__file__).parents[3]

WITHOUT_DIFFUSERS = """
import sys
sys.modules["diffusers"] = None  # any import of it fails
import torch
import adaptive
from adaptive.schedules import CachingClock

codebook = adaptive.Codebook((0.5,), (3, 1))
clock = CachingClock(codebook, 8)
print(adaptive.replay_calls([torch.ones(4)] * 8, clock), adaptive.oracle_calls(torch.zeros(8, 8), 3))
try:
    adaptive.apply_adacache
except ImportError as error:
    print("ImportError", "needs the hook classes of diffusers" in str(error))
"""

ON_A_MODEL = """
import sys
import torch
import adaptive
from adaptive import Codebook, apply_adacache

sys.path.insert(0, sys.argv[1])  # for the small models only
from helpers.models import small
assert "helpers.methods.caching_schedules" not in sys.modules

net = small.video_transformer("Latte", 8)
plain = net.sample()
with apply_adacache(net.model, Codebook((), (1,)), 8) as handle:
    print(torch.equal(net.sample(), plain), list(handle.last.computed))
with apply_adacache(net.model, Codebook((), (3,)), 8) as handle:
    print(torch.equal(net.sample(), plain), list(handle.last.computed), type(handle.last).__module__)
print(torch.equal(net.sample(), plain))
"""


@pytest.fixture
def run(tmp_path):
    shutil.copytree(ROOT / "helpers" / "methods" / "caching_schedules", tmp_path / "adaptive", ignore=shutil.ignore_patterns("__pycache__"))

    def run(program, *arguments):
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": str(tmp_path)}
        result = subprocess.run([sys.executable, "-c", program, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    return run


def test_schedules_without_diffusers(run):
    # rate 3 from call 2 on, and the last two; three calls are just those that are always computed
    assert run(WITHOUT_DIFFUSERS) == ["[1, 2, 5, 7, 8] [1, 7, 8]", "ImportError True"]


def test_a_copied_folder_on_a_model(run):
    first, second, third = run(ON_A_MODEL, str(ROOT))
    assert first == "True [1, 2, 3, 4, 5, 6, 7, 8]"
    assert second == "False [1, 2, 5, 7, 8] adaptive.attach"
    assert third == "True"  # nothing is left behind


def test_names_of_both_halves_are_found_in_one_place():
    from helpers.methods.caching_schedules import attach, schedules

    assert sorted(caching_schedules.__all__) == sorted([*schedules.__all__, *attach.__all__])
    for half in (schedules, attach):
        assert [name for name in half.__all__ if getattr(caching_schedules, name) is not getattr(half, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'apply_cache'"):
        caching_schedules.apply_cache  # noqa: B018
