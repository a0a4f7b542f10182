"""The labelling page: plain HTML and a script, from files beside this module, and the codebook beside it."""

import functools
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from markdown_it import MarkdownIt

from models.errors import UsageError
from service.auth import public
from service.slot import known_labels

router = APIRouter(include_in_schema=False)
_OWN_LABELS = frozenset({"pro_dialogue", "pro_pressure", "neutral"})  # those of the codebook that ships
_PAGES = Path(__file__).parent / "pages"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/label")
@public
async def page() -> HTMLResponse:
    """The page; it holds no data, its calls need the scope `label`."""
    return HTMLResponse((_PAGES / "label.html").read_bytes(), headers=_HEADERS)


@router.get("/label/label.js")
@public
async def script() -> Response:
    """The page's script."""
    return Response((_PAGES / "label.js").read_bytes(), media_type="text/javascript; charset=utf-8", headers=_HEADERS)


@router.get("/label/codebook")
@public
async def codebook(request: Request) -> HTMLResponse:
    """What the labels mean, as a piece of HTML: the codebook of the settings, or the one that ships where the labels are its."""
    html: str | None = request.app.state.codebook
    if html is None:
        labels = known_labels(request)
        html = _shipped() if set(labels) == _OWN_LABELS else _none_for(labels)
    return HTMLResponse(html, headers=_HEADERS)


def load_codebook(path: Path | None) -> str | None:
    """The HTML of the Markdown file at `path`; UsageError where it cannot be read."""
    if path is None:
        return None
    try:
        return _render(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"the codebook {path} cannot be read ({error.strerror}). Set codebook to a Markdown file.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the codebook {path} is not UTF-8. Set codebook to a Markdown file in UTF-8.") from error


@functools.cache
def _shipped() -> str:
    found = resources.files("training.corpus").joinpath("CODEBOOK.md")
    return _render(found.read_text("utf-8")) if found.is_file() else "<p>The codebook is not installed on this machine.</p>"


def _none_for(labels: Iterable[str]) -> str:
    return (
        f"<p>What {escape(', '.join(labels))} mean stands in no codebook yet: set <code>codebook</code> to a Markdown file, and it "
        "is shown here.</p>"
    )


def _render(text: str) -> str:
    """`text` as HTML without any HTML of its own; its headings stand below the page's."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for token in tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
    rendered: str = markdown.renderer.render(tokens, markdown.options, {})
    return rendered
