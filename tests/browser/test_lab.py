"""The README's first command answers on a machine without a screen."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.browser.jupyter import free_port, wait_for

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_lab_answers_on_its_port(tmp_path):
    port = free_port()
    with open(tmp_path / "log", "wb") as log:
        command = ["make", "lab", f"ARGS=--no-browser --port {port} --IdentityProvider.token=open"]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            answer = wait_for(f"http://127.0.0.1:{port}/lab/tree/my_notebooks/00_start_here.ipynb?token=open", process, seconds=300)
            assert "JupyterLab" in answer and '"news": {"disabled": true}' in answer
            for folder in ("my_notebooks", "notebooks"):
                assert "00_start_here.ipynb" in wait_for(f"http://127.0.0.1:{port}/api/contents/{folder}?token=open", process)
        finally:
            subprocess.run(["kill", f"-{signal.SIGTERM.value}", "--", f"-{process.pid}"], check=False)
            process.wait(30)
