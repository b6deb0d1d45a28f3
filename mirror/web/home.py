"""The page for people at the root: the lines that make an installer use this mirror."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Final

from aiohttp import web

_STYLE: Final = """
:root { color-scheme: light dark; }
body { max-width: 46rem; margin: 3rem auto; padding: 0 1.25rem; font: 1rem/1.6 system-ui, sans-serif; }
h1 { font-size: 1.9rem; margin-bottom: .25rem; }
h2 { font-size: 1.05rem; margin: 1.75rem 0 .4rem; }
p { margin: .4rem 0; }
pre { padding: .8rem 1rem; border: 1px solid color-mix(in srgb, currentColor 22%, transparent); border-radius: .5rem;
  background: color-mix(in srgb, currentColor 6%, transparent); overflow-x: auto; user-select: all; }
code { font: .92rem/1.5 ui-monospace, monospace; }
footer { margin-top: 2.5rem; font-size: .9rem; opacity: .8; }
"""

_POLICY: Final = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

_RECIPES: Final = (
    ("pip", "for this shell", "export PIP_INDEX_URL={index}"),
    ("pip", "for this user", "pip config set global.index-url {index}"),
    ("uv", "for this shell", "export UV_DEFAULT_INDEX={index}"),
    ("uv", "in pyproject.toml", '[[tool.uv.index]]\nname = "mirror"\nurl = "{index}"\ndefault = true'),
    ("Poetry", "in the project's folder", "poetry source add --priority=primary mirror {index}"),
    ("PDM", "for this user", "pdm config pypi.url {index}"),
)


def home_page(base: str) -> web.Response:
    """The page for a mirror whose root is at the absolute URL `base`; it loads nothing else."""
    index = f"{base}simple/"
    recipes = "\n".join(
        f"<h2>{escape(tool)}, {escape(where)}</h2>\n<pre><code>{escape(lines.format(index=index))}</code></pre>"
        for tool, where, lines in _RECIPES
    )
    body = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Python package mirror</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Python package mirror</h1>
<p>The index is at <a href="simple/"><code>{escape(index)}</code></a>.</p>
{recipes}
</main>
<footer><a href="livez">alive</a> · <a href="readyz">ready</a> · <a href="metrics">metrics</a></footer>
</body>
</html>
"""
    return web.Response(
        body=body.encode(),
        headers={
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": _POLICY,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        },
    )
