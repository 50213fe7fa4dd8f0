"""No socket leaves the machine while the notebooks run: the guard works, and its log of the last run is empty."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

OFFLINE = Path(__file__).parent / "offline"


def run(code, log):
    env = os.environ | {"PYTHONPATH": str(OFFLINE), "STEPWISE_SOCKET_LOG": str(log)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "code, event",
    [
        ("import socket; s = socket.socket(); s.settimeout(1); s.connect(('192.0.2.1', 80))", "socket.connect 192.0.2.1"),
        ("import socket; s = socket.socket(); s.settimeout(1); s.connect_ex(('192.0.2.1', 80))", "socket.connect 192.0.2.1"),
        ("import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", "socket.sendto 192.0.2.1"),
        ("import urllib.request; urllib.request.urlopen('http://example.invalid/', timeout=1)", "socket.getaddrinfo example.invalid"),
    ],
)
def test_other_machines_are_out_of_reach(tmp_path, code, event):
    done = run(code, tmp_path / "log")
    assert done.returncode != 0 and "without a network" in done.stderr
    assert (tmp_path / "log").read_text().splitlines() == [event]


def test_this_machine_stays_in_reach(tmp_path):
    code = (
        "import socket; a = socket.create_server(('127.0.0.1', 0)); b = socket.create_connection(a.getsockname()); "
        "c, d = socket.socketpair(); c.send(b'x'); e = socket.create_connection(('localhost', a.getsockname()[1])); print('reached')"
    )
    done = run(code, tmp_path / "log")
    assert done.stdout == "reached\n", done.stderr
    assert not (tmp_path / "log").exists()


@pytest.mark.notebooks
def test_notebooks_asked_for_no_other_machine():
    log = Path(os.environ.get("STEPWISE_SOCKET_LOG", ".pytest_cache/sockets.log"))
    assert not log.exists(), f"while the notebooks ran: {log.read_text()}"
