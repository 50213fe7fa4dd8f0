"""Links lead where they say: to a section of the same page, and to another page (whose section JupyterLab finds once that page is open)."""

import pytest

pytestmark = pytest.mark.browser
SEEN = """([stem, heading]) => {
    const panel = window.jupyterapp.shell.currentWidget;
    if (!panel || !panel.context || !panel.context.path.includes(stem)) return false;
    const view = panel.content.node.getBoundingClientRect();
    return [...panel.content.node.querySelectorAll('h1, h2, h3')].some(h => {
        const box = h.getBoundingClientRect();
        return h.textContent.startsWith(heading) && box.height > 0 && box.top >= view.top - 5 && box.bottom <= view.bottom + 5;
    });
}"""


@pytest.mark.parametrize(
    ("page", "link", "stem", "heading"),
    [
        ("00_start_here", "glossary", "00_start_here", "Glossary"),
        ("00_start_here", "page 01, section 4. The comparison that decides", "01_caching_schedules", "01 - Adaptive caching"),
    ],
)
def test_a_link_leads_where_it_says(open_page, screenshots, page, link, stem, heading):
    opened = open_page(f"my_notebooks/{page}.ipynb").page
    opened.locator(".jp-Notebook a", has_text=link).first.click(timeout=90_000)
    try:
        opened.wait_for_function(SEEN, arg=[stem, heading], timeout=90_000)
    finally:
        opened.screenshot(path=str(screenshots / f"link_{page}_{stem}.png"))
