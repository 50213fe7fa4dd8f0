"""helpers.explore.control in a real JupyterLab: the live face answers, the stored face needs no kernel."""

import pytest

from tests.browser.jupyter import picture, wait_for_change

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
    ):
        move()
        assert wait_for_change(control, before) < 1.0
        before = picture(control)
    control.screenshot(path=screenshots / "sample_control.png")
    control.locator(".stepwise-mirrored input").uncheck()
    wait_for_change(control, before)
    before = picture(control)
    control.locator(".stepwise-colour select").select_option("red")
    wait_for_change(control, before)
    before = picture(control)
    control.locator(".stepwise-power .noUi-handle").first.press("ArrowLeft")
    wait_for_change(control, before)
    assert picture(control) == first


def test_button_works_on_the_typed_text_and_explains_an_error(open_page, screenshots):
    page = open_page("samples/live.ipynb")
    assert page.run_all(120) == []
    control = page.control(1)
    box, button, message = control.locator(".stepwise-text input"), control.locator(".stepwise-button-sample"), control.locator(".stepwise-message")
    box.fill("a blue disc")
    button.click()
    control.get_by_text("working…").wait_for(timeout=5000)
    control.locator("img.stepwise-result").wait_for(state="visible", timeout=10_000)
    control.screenshot(path=screenshots / "sample_button.png")
    box.fill("nothing")
    button.click()
    control.get_by_text("text must name a thing").wait_for(timeout=10_000)
    assert "Traceback" not in message.inner_text()


def test_stored_page_shows_its_film_strip_without_a_kernel(open_page, screenshots):
    page = open_page("samples/stored.ipynb")
    page.evaluate("await panel.sessionContext.ready; await panel.sessionContext.shutdown();")
    image = page.page.locator(".jp-OutputArea-output img").first
    image.wait_for(state="visible", timeout=30_000)
    assert image.evaluate("i => i.complete && i.naturalWidth") > 300
    assert page.page.get_by_text("Error displaying widget").count() == 0
    page.page.screenshot(path=screenshots / "sample_stored.png")
