"""One JupyterLab and one Chromium for the browser tests of a process, on a copy of the notebooks."""

import os
import shutil
from pathlib import Path

import pytest

from helpers.page.lab import refresh
from tests.browser import jupyter
from tests.browser.sample import write_samples

ROOT = Path(__file__).resolve().parents[2]
SHOTS = Path(os.environ.get("STEPWISE_SCREENSHOTS") or ROOT / ".pytest_cache" / "screenshots")


def pytest_collection_modifyitems(items):
    """Whole pages first: what is short fills the end of the workers' time."""
    items.sort(key=lambda item: "browser/test_notebooks" not in item.nodeid)


@pytest.fixture(scope="session")
def screenshots():
    SHOTS.mkdir(parents=True, exist_ok=True)
    return SHOTS


def pytest_terminal_summary(terminalreporter):
    if SHOTS.exists():
        terminalreporter.write_line(f"screenshots in {SHOTS}")


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Folder, address and token of a JupyterLab started as `make lab` does it, on copies of the notebooks and two sample pages."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for name in (".jupyter", "data", "helpers"):
        (folder / name).symlink_to(ROOT / name)
    write_samples(folder / "samples")
    refresh(folder)
    with jupyter.lab_server(folder, tmp_path_factory.mktemp("home")) as server:
        yield folder, *server


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=jupyter.chromium_path(), headless=True, args=jupyter.CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(lab, browser):
    """open_page("my_notebooks/01_x.ipynb") -> the page in its own browser context."""
    contexts = []

    def open_one(name):
        context = browser.new_context(viewport={"width": 1300, "height": 1000})
        contexts.append(context)
        return jupyter.Page(context.new_page(), *lab[1:], name)

    yield open_one
    for context in contexts:
        context.close()
