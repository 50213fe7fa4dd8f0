"""helpers.page.explore.control in a real JupyterLab: the live face answers, the stored face needs no kernel."""

import pytest

from tests.browser.jupyter import pick_at, pick_line, picture, wait_for_change

pytestmark = pytest.mark.browser


def test_sliders_menus_and_boxes_change_the_picture(open_page, screenshots):
    page = open_page("samples/live.ipynb")
    assert page.run_all(120) == []
    control = page.control(0)
    before = first = picture(control)
    assert before
    for move in (
        lambda: control.locator(".stepwise-power [role=slider], .stepwise-power .noUi-handle").first.press("ArrowRight"),
        lambda: control.locator(".stepwise-colour select").select_option("blue"),
        lambda: control.locator(".stepwise-mirrored input").check(),
        lambda: control.locator(".stepwise-marks button").nth(2).click(),
    ):
        move()
        assert wait_for_change(control, before) < 1.0
        before = picture(control)
    control.screenshot(path=screenshots / "sample_control.png")
    control.locator(".stepwise-marks button").nth(2).click()
    wait_for_change(control, before)
    before = picture(control)
    control.locator(".stepwise-mirrored input").uncheck()
    wait_for_change(control, before)
    before = picture(control)
    control.locator(".stepwise-colour select").select_option("red")
    wait_for_change(control, before)
    before = picture(control)
    control.locator(".stepwise-power .noUi-handle").first.press("ArrowLeft")
    wait_for_change(control, before)
    assert picture(control) == first


def nameless(page):
    """What a screen reader cannot name: pictures without alt text, inputs, buttons and sliders without a name."""
    return page.evaluate("""
        const label = e => document.getElementById(e.getAttribute('aria-labelledby'))?.textContent.trim();
        const named = e => label(e) || e.getAttribute('aria-label') || e.title || e.labels?.length || e.textContent.trim();
        const inputs = [...document.querySelectorAll('.stepwise-control :is(input, select, button, [role=slider])')].filter(e => !named(e));
        return [...document.querySelectorAll('.jp-Notebook img:not([alt]), .jp-Notebook img[alt=""]'), ...inputs].map(e => e.outerHTML.slice(0, 200));
    """)


def test_pictures_and_inputs_have_a_text(open_page):
    page = open_page("samples/live.ipynb")
    assert page.run_all(120) == []
    control = page.control(0)
    assert control.locator(".stepwise-picture img").get_attribute("alt") == "powers: power = 2, colour = red, mirrored = False, marks = 2"
    assert control.get_by_role("slider", name="power", exact=True).count() == 1
    assert nameless(page) == []
    page = open_page("samples/stored.ipynb")
    page.assert_pictures_without_a_kernel()
    page.page.locator("img[alt^=\"Control 'powers', drawn in 4 of its states: power = 2; \"]").wait_for(timeout=10_000)
    assert nameless(page) == []


def test_button_works_on_the_typed_text_and_explains_an_error(open_page, screenshots):
    page = open_page("samples/live.ipynb")
    assert page.run_all(120) == []
    control = page.control(1)
    box, button, message = control.locator(".stepwise-text input"), control.locator(".stepwise-button-sample"), control.locator(".stepwise-message")
    box.fill("a blue disc")
    button.click()
    control.get_by_text("working…").wait_for(timeout=5000)
    control.locator(".stepwise-result img").wait_for(state="visible", timeout=10_000)
    control.screenshot(path=screenshots / "sample_button.png")
    box.fill("nothing")
    button.click()
    control.get_by_text("text must name a thing").wait_for(timeout=10_000)
    assert "Traceback" not in message.inner_text()


def test_pick_shows_the_match_of_the_pixel(open_page, screenshots):
    page = open_page("samples/live.ipynb")
    names = page.evaluate("return Object.getOwnPropertyNames(window);")
    assert page.run_all(240) == []
    control, other = page.control(2), page.control(3)
    other.locator(".stepwise-pick[data-ready]").wait_for(timeout=30_000)
    control = page.control(2)
    start = pick_line(control)
    assert start.startswith("source (3, 2) -> turned (12, 9), similarity ") and "\nsource (3, 2) -> <b>tall (1, 3), similarity " in start
    before = picture(control)
    times = [pick_at(control, x, y) for x, y in ((0, 0), (15, 11), (2, 6), (9, 7), (10, 5))]
    assert min(times) < 150, times  # every pick is the same work; a busy machine only adds to it
    line = pick_line(control)
    assert line.startswith("source (10, 5) -> turned (5, 6), similarity ") and "source (10, 5) -> <b>tall (2, 10), similarity " in line
    assert picture(control) != before
    for i, (x, y) in enumerate([(10.5 / 16, 5.5 / 12), (5.5 / 16, 6.5 / 12), (2.5 / 6, 10.5 / 16)]):
        found = (
            control.locator(".stepwise-pick-picture")
            .nth(i)
            .evaluate("""(box) => {
            const b = box.getBoundingClientRect(), m = box.querySelector('.stepwise-pick-mark').getBoundingClientRect();
            return [((m.left + m.right) / 2 - b.left) / b.width, ((m.top + m.bottom) / 2 - b.top) / b.height];
        }""")
        )
        assert found == pytest.approx([x, y], abs=0.01)
    heat = "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return [c.width, c.height, [...d].join()]; }"
    canvas = control.locator("canvas").first
    drawn = canvas.evaluate(heat)
    assert drawn[:2] == [4, 3]
    control.screenshot(path=screenshots / "sample_pick.png")

    for key, point, answer in (("ArrowRight", (11, 5), (4, 6)), ("ArrowDown", (11, 6), (4, 5)), ("ArrowLeft", (10, 6), (5, 5)), ("ArrowUp", (10, 5), (5, 6))):
        page.page.keyboard.press(key)  # the click gave the source the focus
        assert pick_line(control).startswith(f"source {point} -> turned {answer}")
    assert control.locator(".stepwise-pick-source").evaluate("s => [document.activeElement === s, getComputedStyle(s).outlineStyle]") == [True, "solid"]
    assert page.evaluate("return panel.content.mode;") == "command"

    box = control.locator(".stepwise-pick-source").bounding_box()
    page.page.mouse.move(box["x"] + 20, box["y"] + 20)
    assert pick_line(control) == line  # no button is pressed
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 12, box["y"] + 68, steps=3)
    assert pick_line(control).startswith("source (1, 8) -> turned (14, 3)")
    page.page.mouse.move(box["x"] - 300, box["y"] + 4)
    assert pick_line(control).startswith("source (0, 0) -> turned (15, 11)")
    page.page.mouse.up()
    assert canvas.evaluate(heat) != drawn
    control.locator(".stepwise-pick-heat").uncheck()
    assert not canvas.is_visible()

    assert pick_line(page.control(3)) == start  # the second control has stayed where it was
    ids = page.page.evaluate("[...document.querySelectorAll('.stepwise-pick')].map(e => e.id)")
    assert len(ids) == len(set(ids)) == 2
    added = set(page.evaluate("return Object.getOwnPropertyNames(window);")) - set(names)
    assert not [name for name in added if "pick" in name.lower()] and not added & {"d", "wire", "unpack", "roots", "show", "bytes"}


def test_pick_works_again_after_its_cell_is_run_again(open_page):
    page = open_page("samples/live.ipynb")
    assert page.run_all(240) == []
    before = page.control(2).locator(".stepwise-pick[data-ready]").get_attribute("id")
    pick_at(page.control(2), 9, 9)
    page.evaluate("panel.content.activeCellIndex = 2; await window.jupyterapp.commands.execute('notebook:run-cell');")
    control = page.control(2)
    control.locator(f".stepwise-pick[data-ready]:not([id='{before}'])").wait_for(timeout=30_000)
    assert pick_line(control).startswith("source (3, 2) -> turned (12, 9)")
    pick_at(control, 15, 0)
    assert pick_line(control).startswith("source (15, 0) -> turned (0, 11)")
    assert pick_line(page.control(3)).startswith("source (3, 2)")


def test_stored_page_shows_its_film_strip_without_a_kernel(open_page, screenshots):
    page = open_page("samples/stored.ipynb")
    page.assert_pictures_without_a_kernel()
    page.page.screenshot(path=screenshots / "sample_stored.png")
