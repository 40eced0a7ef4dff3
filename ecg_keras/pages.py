"""Build self-contained HTML pages: style and images inside, no script, nothing fetched.

Conventions
-----------
Text is escaped by `table`, `figure` and `facts`; a section's body is HTML already. Pages
read on a phone (tables scroll inside themselves, pictures shrink) and print.
"""

import base64
import html
import importlib.resources


def page(title, sections, *, lead="", banner=None):
    """Build a page.

    Parameters
    ----------
    title : str
        Heading and window title.
    sections : sequence of (str, str, str)
        Identifier for links, heading and HTML body of each section, in order.
    lead : str
        HTML between the heading and the first section.
    banner : str, optional
        Text of a warning across the top.

    Returns
    -------
    str
        The whole HTML document.
    """
    css = importlib.resources.files("ecg_keras").joinpath("report.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in sections)
    bodies = "\n".join(
        f'<section id="{name}"><h2>{escape(heading)}</h2>\n{body}</section>'
        for name, heading, body in sections
    )
    warning = f'<p class="banner" role="alert">{escape(banner)}</p>\n' if banner else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{css}</style>
</head>
<body>
{warning}<main>
<header><h1>{escape(title)}</h1>
{lead}</header>
<nav>{links}</nav>
{bodies}
</main>
</body>
</html>
"""


def escape(text):
    """Text as HTML shows it.

    Examples
    --------
    >>> escape("a < b")
    'a &lt; b'
    """
    return html.escape(str(text))


def table(headers, rows, *, caption=None, numbers_from=1):
    """Rows of values as an HTML table that scrolls inside itself; columns from `numbers_from` are set right.

    Examples
    --------
    >>> "<td>N</td><td class=n>3</td>" in table(["class", "rows"], [["N", 3]])
    True
    """
    cell = lambda tag, i, value: (
        f"<{tag}{' class=n' if i >= numbers_from else ''}>{escape(value)}</{tag}>"
    )
    head = "".join(cell("th", i, value) for i, value in enumerate(headers))
    body = "\n".join(
        "<tr>" + "".join(cell("td", i, v) for i, v in enumerate(row)) + "</tr>" for row in rows
    )
    title = f'<p class="caption">{escape(caption)}</p>\n' if caption else ""
    return f'{title}<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n'


def figure(data, caption, *, wide=False):
    """PNG bytes as a figure whose caption is also its alternative text."""
    encoded = base64.b64encode(data).decode("ascii")
    kind = ' class="wide"' if wide else ""
    return (
        f'<figure{kind}><img alt="{escape(caption)}" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def figures(*parts):
    """Figures side by side where the screen is wide enough."""
    return '<div class="figures">\n' + "".join(parts) + "</div>\n"


def facts(pairs):
    """Names and values as a two-column list."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f"<dl>{items}</dl>\n"


def bullets(texts, *, kind="notes"):
    """Texts as a list; nothing for none."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="{kind}">{items}</ul>\n' if items else ""


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


def interval(pair, show=decimal):
    """[low, high] as text, a dash for None.

    Examples
    --------
    >>> interval([0.91, 0.94]), interval([0.91, 0.94], percent)
    ('0.910 to 0.940', '91.0 to 94.0 %')
    """
    if pair is None:
        return "-"
    low, high = show(pair[0]), show(pair[1])
    return f"{low.removesuffix(' %')} to {high}"
