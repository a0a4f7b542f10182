"""One shape for every error: application/problem+json (RFC 9457) with a stable code, never an echo of the input."""

import logging
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.api import ProblemBody
from service.batcher import CallerGone, DeadlinePassed, Overloaded

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("stancewire")
_CODES = {404: "not_found", 405: "method_not_allowed"}
_DETAILS = {
    404: "There is nothing at this address. GET /docs lists the addresses.",
    405: "This address does not take this method. The Allow header lists those it takes; GET /docs shows how to call it.",
}


class Problem(Exception):
    """An error answer; `pointer` is the place in the body at fault, such as `#/sentences/3`."""

    def __init__(
        self, status: int, code: str, detail: str, *, pointer: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.pointer = pointer
        self.headers = headers

    def response(self) -> Response:
        """This problem as an answer."""
        return problem_response(self.status, self.code, self.detail, self.headers, pointer=self.pointer)


def problem_response(
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    *,
    pointer: str | None = None,
    instance: str | None = None,
) -> Response:
    """The answer for one problem; `instance` is a new URN where none is given."""
    body = ProblemBody(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance or uuid.uuid4().urn,
        code=code,
        errors=None if pointer is None else [{"pointer": pointer, "detail": detail}],
    )
    return Response(body.model_dump_json(exclude_none=True), status, dict(headers or {}), MEDIA_TYPE)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route says in its documentation of the problems that it answers with."""
    return {status: {"content": {MEDIA_TYPE: {"schema": ProblemBody.model_json_schema()}}} for status in statuses}


def log_problem(problem: Problem) -> None:
    """Say in the log what no caller is there to be told."""
    _log.warning("%s: %s", problem.code, problem.detail)


def install(app: FastAPI) -> None:
    """Give `app` its error handlers."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(CallerGone, _on_disconnect)
    app.add_exception_handler(Overloaded, _on_overload)
    app.add_exception_handler(DeadlinePassed, _on_deadline)
    app.add_exception_handler(Exception, _on_fault)


def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "http_error")
    return problem_response(error.status_code, code, _DETAILS.get(error.status_code, error.detail), error.headers)


def _on_validation(request: Request, error: Exception) -> Response:
    return problem_response(422, "invalid_request", "The request is not of the form that GET /docs shows.")


def _on_disconnect(request: Request, error: Exception) -> Response:
    # nobody reads this answer, but it is counted as the client's doing and not as a fault of the service
    return problem_response(400, "client_disconnected", "The connection was closed before the answer was ready.")


def _on_overload(request: Request, error: Exception) -> Response:
    assert isinstance(error, Overloaded)
    detail = f"More is waiting than the service takes on. Send it again in {error.retry_after_s} s."
    return problem_response(429, "overloaded", detail, {"Retry-After": str(error.retry_after_s)})


def _on_deadline(request: Request, error: Exception) -> Response:
    detail = "The answer was not ready in time and is not computed any more. Send fewer sentences, or allow more time."
    return problem_response(504, "deadline_exceeded", detail)


def _on_fault(request: Request, error: Exception) -> Response:
    instance = uuid.uuid4().urn
    _log.error("%s: %s %r failed", instance, request.method, request.url.path[:200], exc_info=error)
    detail = "The service failed on this request. Its log says why, under this answer's instance; please report it."
    return problem_response(500, "internal_error", detail, instance=instance)
