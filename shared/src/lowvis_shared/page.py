"""One HTML page that holds everything: no script, no style and no picture is fetched."""

import html


def page(title: str, body: str) -> str:
    """Write a page under a heading.

    Args:
        title: Plain text.
        body: HTML that goes below it. The style knows ``div.wide`` around tables, which may be
            wider than the page, ``div.plots`` around figures, cells of class ``text``, and table
            rows of class ``baseline`` and ``out``.
    """
    return _PAGE.format(title=html.escape(title), style=_STYLE, body=body)


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem;
       color: #222; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { border-bottom: 1px solid #ddd; padding: .35rem .6rem; text-align: right }
thead th { vertical-align: bottom } tbody th, td.text { text-align: left }
tr.baseline { background: #fff3eb } tr.out { color: #999 }
.wide { overflow-x: auto } .plots { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0; flex: 1 1 480px; max-width: 560px }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
