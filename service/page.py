"""The labelling page: plain HTML and a script, from files beside this module, and the codebook beside it."""

from importlib import resources
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from service.auth import public

router = APIRouter(include_in_schema=False)
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
async def codebook() -> Response:
    """What the labels mean, where it is installed."""
    found = resources.files("training.corpus").joinpath("CODEBOOK.md")
    text = found.read_text("utf-8") if found.is_file() else "The codebook is not installed on this machine."
    return Response(text, media_type="text/plain; charset=utf-8", headers=_HEADERS)
