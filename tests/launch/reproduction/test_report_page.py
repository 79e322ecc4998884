"""The report in a browser: nothing is wrong, nothing is cut off, on a phone and in the dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.reproduction.report import write_report
from tests.chromium import CHROMIUM, Page
from tests.launch.reports import example_section

pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"no {CHROMIUM}; apt-get install chromium"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("report")
    with Page(write_report(folder, [example_section(folder)], "quick")) as page:
        yield page


def test_the_browser_finds_nothing_wrong(page: Page) -> None:
    assert page.evaluate("document.title").startswith("Reproduction report")
    assert page.problems == []


def test_the_browser_would_tell(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.html"
    wrong.write_text("<script>missing()</script><img src='none.png'>")
    with Page(wrong) as page:
        assert "missing is not defined" in " ".join(page.problems)
        assert "none.png" in " ".join(page.problems)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_never_scrolls_sideways(page: Page, width: int) -> None:
    page.resize(width, 844)
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.body.scrollWidth") <= width


def test_all_images_are_drawn(page: Page) -> None:
    widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert widths
    assert min(widths) > 0


def test_links_within_the_page_lead_somewhere(page: Page) -> None:
    lost = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map((link) => link.hash.slice(1))"
        ".filter((place) => !document.getElementById(decodeURIComponent(place)))"
    )
    assert lost == []


def test_dark_mode_darkens_the_page_but_not_the_figures(page: Page) -> None:
    page.resize(1280, 900, dark=True)
    colour = "getComputedStyle(document.querySelector('{}')).backgroundColor"
    assert page.evaluate(colour.format("body")) == "rgb(18, 22, 28)"
    assert page.evaluate(colour.format(".zoom")) == "rgb(255, 255, 255)"
    page.resize(1280, 900)
    assert page.evaluate(colour.format("body")) == "rgb(255, 255, 255)"


def test_a_column_s_name_sorts_the_claims(page: Page) -> None:
    press = "[...document.querySelectorAll('#claims th button')].find((b) => b.innerText == '{}')"
    first = "document.querySelector('#claims tbody td[data-label=ours]').innerText"
    page.evaluate("document.querySelector('#claims details').open = true")
    page.evaluate(f"{press.format('ours')}.click()")
    assert page.evaluate(first) == "1.5 x"
    page.evaluate(f"{press.format('ours')}.click()")
    assert page.evaluate(first) == "4 x"
    page.evaluate(f"{press.format('status')}.click()")
    assert page.evaluate(first) == "1.5 x"  # the one that is off


def test_it_can_be_printed(page: Page, tmp_path: Path) -> None:
    page.print(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
