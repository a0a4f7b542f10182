"""One shape for every error: application/problem+json (RFC 9457) with a stable code, never an echo of the input."""

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.api import ProblemBody

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("stancewire")
_CODES = {404: "not_found", 405: "method_not_allowed"}
_DETAILS = {
    404: "There is nothing at this address. GET /docs lists the addresses.",
    405: "This address does not take this method. The Allow header lists those it takes; GET /docs shows how to call it.",
}


class Problem(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


def problem_response(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer for one problem."""
    body = ProblemBody(title=HTTPStatus(status).phrase, status=status, detail=detail, code=code)
    return Response(body.model_dump_json(), status, dict(headers or {}), MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Give `app` its error handlers."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(Exception, _on_fault)


def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error.status, error.code, error.detail)


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "http_error")
    return problem_response(error.status_code, code, _DETAILS.get(error.status_code, error.detail), error.headers)


def _on_validation(request: Request, error: Exception) -> Response:
    return problem_response(422, "invalid_request", "The request is not of the form that GET /docs shows.")


def _on_fault(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem_response(500, "internal_error", "The service failed on this request. Its log says why; please report it.")
