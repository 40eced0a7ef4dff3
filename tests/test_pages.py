"""Pages are whole, self-contained HTML in which every text is escaped."""

import base64
import re

import pytest
from chromium import open_page
from markupsafe import Markup

from ecg_keras import pages
from ecg_keras.plots import plot_signal, png

pytestmark = pytest.mark.numeric

EVIL = "<script>alert('&')</script>"
ESCAPED = "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;"


@pytest.mark.parametrize(
    "part",
    [
        lambda: pages.heading(EVIL),
        lambda: pages.paragraph(EVIL),
        lambda: pages.code(EVIL),
        lambda: pages.table([EVIL], [[EVIL]], caption=EVIL),
        lambda: pages.figure(b"", EVIL),
        lambda: pages.figures(EVIL),
        lambda: pages.cards([(EVIL, EVIL, EVIL, False)]),
        lambda: pages.facts([(EVIL, EVIL)]),
        lambda: pages.notes([EVIL]),
        lambda: pages.folded(EVIL, EVIL),
        lambda: pages.page(EVIL, [("a", EVIL, "")], banner=EVIL),
        lambda: pages.paragraph("") + EVIL,
    ],
)
def test_every_text_is_escaped_and_what_is_html_stays_html(part):
    made = part()
    assert isinstance(made, Markup) and EVIL not in made and ESCAPED in made
    assert made in pages.folded("more", made)


def test_bodies_of_sections_and_the_lead_are_html():
    page = pages.page("T", [("a", "A", "<p>body</p>")], lead="<p>lead</p>")
    assert "<p>body</p>" in page and "<p>lead</p>" in page and 'role="alert"' not in page


def test_numbers_of_a_table_stand_at_the_right():
    rows = [("a", 1, None), ("b", 2.5, "x")]
    shown = pages.table(["name", "one", "two"], rows, numbers_from=2)
    assert re.findall(r"<(t[hd])(?: class=\"(n)\")?>(.*?)</", shown) == [
        ("th", "", "name"),
        ("th", "", "one"),
        ("th", "n", "two"),
        ("td", "", "a"),
        ("td", "", "1"),
        ("td", "n", "None"),
        ("td", "", "b"),
        ("td", "", "2.5"),
        ("td", "n", "x"),
    ]
    assert "caption" not in shown and ">c</p>" in pages.table(["a"], [], caption="c")


def test_a_figure_holds_its_picture():
    shown = pages.figure(b"PNG", "what", wide=True)
    assert base64.b64encode(b"PNG").decode() in shown and 'alt="what"' in shown and "wide" in shown
    assert "wide" not in pages.figure(b"PNG", "what")
    both = pages.figures(pages.figure(b"a", "A"), pages.figure(b"b", "B"))
    assert both.count("<figure>") == 2 and both.index(">A<") < both.index(">B<")


def test_cards_in_the_background_look_plain():
    shown = pages.cards([("1", "a", "", False), ("2", "b", "", True)])
    assert re.findall(r"<li( class=\"plain\")?>\s*<b>(.)", shown) == [
        ("", "1"),
        (' class="plain"', "2"),
    ]


def test_without_notes_there_is_no_list():
    assert pages.notes(text for text in ()) == "" and isinstance(pages.notes([]), Markup)


def test_a_small_grey_paragraph_is_quiet():
    assert "quiet" in pages.paragraph("a", quiet=True) and "quiet" not in pages.paragraph("a")


def test_unknown_figures_are_dashes():
    assert pages.percent(None) == pages.decimal(None) == pages.range_text(None) == "-"
    assert pages.percent(0.98765, 2) == "98.77 %" and pages.decimal(0.98765) == "0.988"


@pytest.mark.parametrize("width", [1280, 390])
def test_chromium_shows_a_page_of_every_part(tmp_path, width):
    picture = pages.figure(png(plot_signal([0.0, 1.0, 0.0], fs=1)), "a signal", wide=True)
    wide = pages.table([f"column {i}" for i in range(40)], [range(40)])
    body = pages.paragraph("text") + pages.figures(picture) + wide + pages.code("x = 1\ny = 2")
    body += pages.cards([("1", "a", "b", True)]) + pages.facts([("name", "value " * 99)])
    page = pages.page(EVIL, [("one", "One", body), ("two", "Two", pages.notes(["note"]))])
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    seen = open_page(tmp_path / "page.html", width=width)
    assert seen["errors"] == [] and seen["failed_images"] == [] and seen["requests"] == []
    assert seen["title"] == EVIL and seen["sections"] == ["one", "two"]
    assert seen["overflow"] <= 0, "the page is wider than the window"
    assert "x = 1\ny = 2" in seen["text"]
