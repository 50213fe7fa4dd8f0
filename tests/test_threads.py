"""Beside other work a small model must not wait for itself, and what the user has set stays."""

import builtins
import io
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import helpers
from helpers.page import figures

SAID = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")


@pytest.fixture
def machine(monkeypatch):
    """A machine of eight cores with six other running processes, where the user has said nothing; a torch that has just begun, with eight threads."""

    class Torch(SimpleNamespace):
        def get_num_threads(self):
            return self.threads

        def set_num_threads(self, number):
            self.threads = number

    for name in SAID:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(helpers, "_busy", lambda: 6)
    monkeypatch.setitem(sys.modules, "torch", Torch(threads=8))
    return monkeypatch


def test_torch_gets_the_cores_that_are_free(machine):
    for busy, began, left in ((0, 8, 8), (6, 8, 2), (7, 8, 1), (50, 8, 1), (6, 4, 2), (3, 4, 4), (6, 7, 7), (6, 1, 1)):
        machine.setattr(helpers, "_busy", lambda busy=busy: busy)
        sys.modules["torch"].threads = began
        helpers._share_the_machine()
        assert sys.modules["torch"].threads == left, (busy, began)
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize("name", SAID)
def test_what_the_user_has_said_stays(machine, name):
    machine.setenv(name, "8")
    helpers._share_the_machine()
    assert sys.modules["torch"].threads == 8


def test_before_torch_is_loaded_threads_are_told_to_sleep(machine):
    environment = {name: value for name, value in os.environ.items() if name not in SAID}
    code = "import os, sys; import helpers; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "passive False\n", done.stderr


def test_how_busy_the_machine_is(monkeypatch):
    monkeypatch.setattr(builtins, "open", lambda *a, **k: io.StringIO("0.20 0.58 0.59 4/467 2918\n"))
    assert helpers._busy() == 3

    def absent(*arguments, **named):
        raise FileNotFoundError

    monkeypatch.setattr(builtins, "open", absent)
    monkeypatch.setattr(os, "getloadavg", lambda: (2.6, 9.0, 9.0))
    assert helpers._busy() == 3


@pytest.mark.parametrize("said, left", [({}, 1), ({"OMP_NUM_THREADS": "3"}, 3), ({"MKL_NUM_THREADS": "3"}, 3)])
def test_a_page_has_one_thread(monkeypatch, said, left, capsys):
    for name in SAID:
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        figures.use_style()
        assert torch.get_num_threads() == left
    finally:
        torch.set_num_threads(before)
