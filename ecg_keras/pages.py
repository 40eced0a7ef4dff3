"""Build HTML pages that need no other file: style and pictures inside.

Conventions
-----------
Every function gives `Markup`, which is HTML; it can be joined with ``+``. Text that is put
into it is escaped, and so is text that is joined to it. The HTML itself stands in page.jinja,
the style in page.css. Pages read on a phone (tables scroll inside themselves, pictures shrink)
and print.
"""

import base64
import functools

import jinja2
import pandas as pd
from markupsafe import Markup


@functools.cache
def _environment():
    """The package's templates, read when they are used."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("ecg_keras", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )


@functools.cache
def _macros():
    """The macros of page.jinja, read when the first page is built."""
    return _environment().get_template("page.jinja").module


def render(template, **values):
    """A template of the package as HTML; text among the values is escaped."""
    return Markup(_environment().get_template(template).render(values))


def page(title, sections, *, lead="", banner=None):
    """Build a page.

    Parameters
    ----------
    title : str
        Heading and window title.
    sections : sequence of (str, str, str)
        Identifier for links, heading, and body of each section, in order. The body is HTML.
    lead : str, default ""
        HTML between the heading and the first section.
    banner : str, optional
        Text of a warning across the top.

    Returns
    -------
    Markup
        The whole HTML document.
    """
    sections = [(name, heading, Markup(body)) for name, heading, body in sections]
    return _macros().page(title, sections, Markup(lead), banner)


def heading(text):
    """Text as the heading of a part of a section."""
    return _macros().heading(text)


def paragraph(text, *, quiet=False):
    """Text as a paragraph, or with `quiet` as a small grey one.

    Examples
    --------
    >>> str(paragraph("a < b")).strip()
    '<p>a &lt; b</p>'
    """
    return _macros().paragraph(text, quiet)


def code(text):
    """Lines of a program as they are."""
    return _macros().code(text)


def table(headers, rows, *, caption=None, numbers_from=1):
    """Rows of values as a table that scrolls inside itself.

    Columns from `numbers_from` (counted from 0) stand at the right, as numbers do.

    Examples
    --------
    >>> '<td>N</td><td class="n">3</td>' in table(["class", "rows"], [["N", 3]])
    True
    """
    return _macros().table(headers, rows, caption, numbers_from)


def figure(data, caption, *, wide=False):
    """PNG bytes as a figure; its caption is also its alternative text."""
    return _macros().figure(base64.b64encode(data).decode("ascii"), caption, wide)


def figures(*parts):
    """Figures side by side where the screen is wide enough."""
    return _macros().figures(parts)


def cards(items):
    """Key figures as cards: (value, label, text below, True for a card in the background)."""
    return _macros().cards(items)


def facts(pairs):
    """Names and values as a list of two columns."""
    return _macros().facts(pairs)


def notes(texts):
    """Texts as a list of notes; nothing where there is none."""
    texts = list(texts)
    return _macros().notes(texts) if texts else Markup()


def folded(summary, body):
    """HTML that is hidden until a reader opens it."""
    return _macros().folded(summary, body)


def percent(value, digits=1):
    """A share as percent, a dash for None.

    Examples
    --------
    >>> percent(0.8284), percent(None)
    ('82.8 %', '-')
    """
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def decimal(value, digits=3):
    """A number with a fixed count of decimals, a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def clock(seconds, start=None):
    """A time in a recording as text: hours, minutes and seconds, or the time of day.

    Examples
    --------
    >>> clock(3725.4), clock(60, "2026-03-03T23:59:30")
    ('1:02:05', '00:00:30')
    """
    if start is not None:
        return f"{pd.Timestamp(start) + pd.Timedelta(seconds=float(seconds)):%H:%M:%S}"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def range_text(pair, show=decimal):
    """Two ends (low, high) as text, a dash for None.

    Examples
    --------
    >>> range_text([0.91, 0.94]), range_text([0.91, 0.94], percent)
    ('0.910 to 0.940', '91.0 to 94.0 %')
    """
    if pair is None:
        return "-"
    low, high = show(pair[0]), show(pair[1])
    return f"{low.removesuffix(' %')} to {high}"
