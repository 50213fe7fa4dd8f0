"""A real JupyterLab server and a headless Chromium, for the browser tests."""

import json
import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from helpers.page.lab import COPIES, command

CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
]  # fmt: skip
SETTINGS = {  # no news; and tests save when they ask for it: JupyterLab shows a dialog when its own saving, every two minutes, falls into another one
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen, seconds: float = 90) -> str:
    """The page at `url` once it answers. Fails when the process ends or the time is over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, f"the server ended with code {process.returncode}"
        try:
            return urllib.request.urlopen(url, timeout=5).read().decode()
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"{url} did not answer within {seconds} s")


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def lab_server(folder: Path, home: Path):
    """JupyterLab on the reader's copies in `folder`; yields its address and token. Settings and runtime files stay in `home`."""
    port, token = free_port(), secrets.token_hex(8)
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    line, environment = command(folder, COPIES)
    env = environment | {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_CONFIG_DIR": str(home / "config"), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    line += ["--no-browser", "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", f"--IdentityProvider.token={token}"]
    with open(home / "server.log", "wb") as log:
        process = subprocess.Popen(line, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", process)
            yield f"http://127.0.0.1:{port}", token
        finally:
            stop(process)


def chromium_path() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "no Chromium found; install Debian's package chromium"
    return path


class Page:
    """One notebook open in JupyterLab."""

    def __init__(self, browser_page, address, token, name):
        self.page = browser_page
        self.page.goto(f"{address}/lab/tree/{name}?token={token}&reset")
        self.page.wait_for_function(
            "() => window.jupyterapp && window.jupyterapp.shell.currentWidget && window.jupyterapp.shell.currentWidget.content?.widgets?.length", timeout=90_000
        )

    def evaluate(self, body: str):
        """Run JavaScript with `panel` (the notebook) and `cells` (its cells) in scope."""
        return self.page.evaluate(f"async () => {{ const panel = window.jupyterapp.shell.currentWidget; const cells = panel.content.widgets; {body} }}")

    def run_all(self, timeout: float = 2400) -> list[str]:
        """Run all cells, wait for the end, and return the errors that untagged cells show."""
        self.evaluate("await panel.sessionContext.ready; await panel.sessionContext.session?.kernel?.info;")
        self.evaluate("for (const c of cells) if (c.model.type === 'code') c.model.executionCount = null;")
        self.page.evaluate(
            "() => { window.stepwiseDone = false; window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.stepwiseDone = true; }); }"
        )
        self.page.wait_for_function("() => window.stepwiseDone", timeout=timeout * 1000)
        self.page.wait_for_function("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'", timeout=60_000)
        return self.evaluate("""
            const faults = [];
            for (const c of cells) {
                if (c.model.type !== 'code') continue;
                const tags = c.model.getMetadata('tags') || [];
                const text = c.model.sharedModel.getSource();
                if (text.trim() && !c.model.executionCount) faults.push('not executed: ' + text.slice(0, 80));
                for (const o of c.model.sharedModel.getOutputs())
                    if (o.output_type === 'error' && !tags.includes('raises-exception')) faults.push(o.ename + ': ' + o.evalue);
            }
            return faults;""")

    def save(self) -> None:
        """Save as Ctrl-S does, twice: what is stored differs from what the browser holds, and JupyterLab must not take that for somebody else's change."""
        for _ in range(2):
            self.evaluate("await window.jupyterapp.commands.execute('docmanager:save');")
            self.page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty", timeout=30_000)
            assert self.page.locator(".jp-Dialog").all_inner_texts() == []

    def assert_pictures_without_a_kernel(self) -> None:
        """End the kernel and find a picture in the place of every control."""
        self.evaluate("await panel.sessionContext.ready; await panel.sessionContext.shutdown();")
        for cell in self.control_cells():
            self.evaluate(f"await panel.content.scrollToItem({cell}, 'start');")
            image = self.page.locator(f".jp-Cell[data-windowed-list-index='{cell}'] .jp-OutputArea-output img").first
            image.wait_for(state="visible", timeout=30_000)
            assert image.evaluate("i => i.complete && i.naturalWidth") > 300
        for message in ("Error displaying widget", "model not found"):
            assert self.page.get_by_text(message).count() == 0

    def control_cells(self) -> list[int]:
        """The numbers of the cells tagged control."""
        return self.evaluate("return cells.map((c, i) => (c.model.getMetadata('tags') || []).includes('control') ? i : -1).filter(i => i >= 0);")

    def control(self, cell: int):
        """The live control of a cell, scrolled into view and with its picture loaded."""
        self.evaluate(f"await panel.content.scrollToItem({cell}, 'start');")
        found = self.page.locator(f".jp-Cell[data-windowed-list-index='{cell}'] .stepwise-control").first
        found.wait_for(state="visible", timeout=30_000)
        return found


def picture(control) -> str:
    """What the control shows now: the shown image's bytes, or its HTML."""
    return control.evaluate("""async (root) => {
        const shown = [...root.querySelectorAll('.stepwise-picture')].find(e => getComputedStyle(e).display !== 'none');
        if (!shown) return '';
        if (shown.tagName !== 'IMG') return shown.innerHTML;
        const bytes = new Uint8Array(await (await fetch(shown.src)).arrayBuffer());
        const hash = await crypto.subtle.digest('SHA-256', bytes);
        return [...new Uint8Array(hash)].map(b => b.toString(16).padStart(2, '0')).join('');
    }""")


def wait_for_change(control, before: str, seconds: float = 20) -> float:
    """Seconds until the control shows something else. Fails when it does not."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if picture(control) != before:
            return time.monotonic() - started
        time.sleep(0.03)
    raise AssertionError(f"the picture did not change within {seconds} s; message: {control.locator('.stepwise-message').inner_text()!r}")


def pick_at(control, x: int, y: int) -> float:
    """Press the mouse on pixel (x, y) of a pick's source; the milliseconds from the press, in the browser, until line and markers are laid out anew."""
    control.locator(".stepwise-pick[data-ready]").wait_for(timeout=30_000)
    source = control.locator(".stepwise-pick-source")
    box = source.evaluate("""(source) => {
        const image = source.querySelector('img');
        source.addEventListener('pointerdown', () => { source.started = performance.now(); }, { capture: true, once: true });
        source.addEventListener('pointerdown', () => setTimeout(() => {
            source.getBoundingClientRect();
            source.took = performance.now() - source.started;
        }), { once: true });
        return { x: source.clientWidth / image.naturalWidth, y: source.clientHeight / image.naturalHeight };
    }""")
    source.click(position={"x": (x + 0.5) * box["x"], "y": (y + 0.5) * box["y"]})
    control.page.wait_for_function("(source) => source.took !== undefined", arg=source.element_handle(), timeout=20_000)
    return source.evaluate("(source) => { const took = source.took; delete source.took; return took; }")


def pick_line(control) -> str:
    """The line below a pick's pictures."""
    return control.locator(".stepwise-pick-line").inner_text()
