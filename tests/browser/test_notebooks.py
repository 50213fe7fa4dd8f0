"""Every notebook runs to its end in a real JupyterLab, every control answers a move by changing its picture, and what was saved can be opened again."""

from pathlib import Path

import nbformat
import pytest

from helpers.page.lab import COPIES
from tests.browser.jupyter import pick_at, pick_line, picture, wait_for_change
from tests.notebooks import guards

pytestmark = pytest.mark.browser
NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def move(box) -> None:
    """Move a slider, menu or checkbox one step by keyboard, back where it stands at its end; press the last of a row of buttons."""
    if (handle := box.locator(".noUi-handle")).count():
        now, last = (float(handle.first.get_attribute(name)) for name in ("aria-valuenow", "aria-valuemax"))
        handle.first.press("ArrowLeft" if now >= last else "ArrowRight")
    elif (menu := box.locator("select")).count():
        at_end = menu.evaluate("m => m.selectedIndex === m.options.length - 1")
        menu.select_option(index=menu.evaluate("m => m.selectedIndex") + (-1 if at_end else 1))
    elif (switches := box.locator("button")).count():
        switches.last.click()
    else:
        box.locator("input[type=checkbox]").press("Space")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_its_controls_answer(path, lab, open_page, screenshots):
    page = open_page(f"{COPIES}/{path.name}")
    assert page.run_all() == []
    page.page.screenshot(path=screenshots / f"{path.stem}.png")
    for cell in page.control_cells():
        control = page.control(cell)
        control.screenshot(path=screenshots / f"{path.stem}_control_{cell}_start.png")
        boxes = control.locator(".stepwise-input:not(.widget-text)")
        live = control.locator(".stepwise-picture").first.is_visible()
        for i in range(boxes.count()):
            before = picture(control) if live else None
            move(boxes.nth(i))
            if live:
                wait_for_change(control, before)
        if "stepwise-pick-control" in control.get_attribute("class"):
            times = []
            for x, y in ((0, 0), (2, 1), (1, 2)):
                times.append(pick_at(control, x, y))
                assert pick_line(control).startswith(f"source ({x}, {y}) -> ")
            assert min(times) < 150, times  # every pick is the same work; a busy machine only adds to it
        buttons = control.locator(".stepwise-button")
        for i in range(buttons.count()):
            buttons.nth(i).click()
            control.locator(".stepwise-result:visible").first.wait_for(timeout=120_000)
            page.page.wait_for_timeout(300)
            buttons.nth(i).and_(page.page.locator(":enabled")).wait_for(timeout=120_000)
            assert control.locator(".stepwise-message").inner_text().strip() == ""
        control.screenshot(path=screenshots / f"{path.stem}_control_{cell}_moved.png")

    page.save()
    original, saved = lab[0] / "notebooks" / path.name, lab[0] / COPIES / path.name
    assert original.read_bytes() == path.read_bytes() != saved.read_bytes()
    notebook = nbformat.read(saved, as_version=4)
    assert [fault for guard in guards.PAGE_GUARDS for fault in guard(notebook)] + list(guards.size(saved.read_bytes())) == []
    again = open_page(f"{COPIES}/{path.name}")
    again.assert_pictures_without_a_kernel()
    again.page.screenshot(path=screenshots / f"{path.stem}_again.png")


def test_there_are_notebooks():
    assert NOTEBOOKS
