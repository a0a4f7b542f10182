"""Every address has a decision about its callers, and keeps to it."""

from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from models.errors import UsageError
from service.app import create_app
from service.auth import Keys, decision, new_key
from service.settings import Settings

HERE, ELSEWHERE = ("127.0.0.1", 50_000), ("203.0.113.7", 50_000)
BODY = {"sentences": ["We met."]}
CALLS = {
    "classify": ("POST", "/v1/classify", BODY),
    "label": ("GET", "/v1/labels/queue", None),
    "admin": ("POST", "/v1/admin/reload", None),
}


def status(client: TestClient, scope: str, key: str | None = None) -> int:
    method, path, body = CALLS[scope]
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    return client.request(method, path, json=body, headers=headers).status_code


@pytest.fixture
def settings(tiny_bundle: Path, tmp_path: Path) -> Settings:
    return Settings(model=str(tiny_bundle), database_url=f"sqlite:///{tmp_path}/labels.db")


def test_every_route_has_a_decision() -> None:
    app = create_app(Settings())
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    routes += [route for router in app.routes for route in getattr(getattr(router, "original_router", None), "routes", ())]
    paths = {route.path for route in routes}
    assert {"/v1/classify", "/v1/labels", "/v1/admin/reload", "/healthz"} <= paths
    undecided = [route.path for route in routes if decision(route.endpoint) not in {"public", "classify", "label", "admin"}]
    assert undecided == []
    by_path = {route.path: decision(route.endpoint) for route in routes}
    open_to_all = {"/healthz", "/readyz", "/metrics", "/label", "/label/label.js", "/label/codebook"}
    assert {path for path, found in by_path.items() if found == "public"} == open_to_all
    assert by_path["/v1/admin/reload"] == "admin"


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({"Host": "127.0.0.1:8000"}, True),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, True),
        ({"Host": "[::1]:8000"}, True),
        ({"Host": "news.example"}, False),  # a name of somebody's that leads here
        ({"Host": "127.0.0.1.news.example"}, False),
        ({"Host": ""}, False),
        ({"Host": "localhost:8000", "Origin": "http://news.example"}, False),
        ({"Host": "localhost:8000", "Origin": "null"}, False),
    ],
)
def test_a_browser_here_lets_no_page_from_elsewhere_in(settings: Settings, headers: dict[str, str], let_in: bool) -> None:
    with TestClient(create_app(settings), client=HERE) as caller:
        assert caller.post("/v1/classify", json=BODY, headers=headers).status_code == (200 if let_in else 401)
        assert caller.post("/v1/admin/reload", headers=headers).status_code == (200 if let_in else 401)


@pytest.mark.parametrize(
    ("client", "open_classify", "expected"),
    [
        (HERE, False, (200, 200, 200)),
        (ELSEWHERE, False, (401, 401, 401)),
        (ELSEWHERE, True, (200, 401, 401)),
        (("::1", 1), False, (200, 200, 200)),
        (("::ffff:127.0.0.1", 1), False, (200, 200, 200)),
        (("unknown", 1), False, (401, 401, 401)),
    ],
)
def test_without_keys_only_this_machine_is_let_in(
    settings: Settings, client: tuple[str, int], open_classify: bool, expected: tuple[int, ...]
) -> None:
    app = create_app(settings.model_copy(update={"open_classify": open_classify}))
    with TestClient(app, base_url="http://127.0.0.1", client=client) as caller:
        assert tuple(status(caller, scope) for scope in CALLS) == expected
        assert caller.get("/healthz").status_code == 200


def test_a_call_that_was_passed_on_is_not_this_machine_s(settings: Settings) -> None:
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=HERE) as caller:
        assert caller.post("/v1/classify", json=BODY, headers={"X-Forwarded-For": "203.0.113.7"}).status_code == 401
        assert caller.get("/v1/labels/export", headers={"Via": "1.1 proxy"}).status_code == 401


def test_keys_open_what_their_scopes_say(settings: Settings, tmp_path: Path) -> None:
    (newsroom, first), (editor, second) = new_key("newsroom", ("classify",), 0), new_key("editor's", ("classify", "label"), 3)
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys:\n{first}{second}", "utf-8")
    assert newsroom not in path.read_text("utf-8")
    app = create_app(settings.model_copy(update={"api_keys_file": path}))
    with TestClient(app, base_url="http://127.0.0.1", client=HERE) as caller:
        assert [status(caller, scope, newsroom) for scope in CALLS] == [200, 403, 403]
        assert [status(caller, scope) for scope in CALLS] == [401, 401, 401], "with keys, this machine needs one too"
        assert status(caller, "classify", newsroom[:-1]) == 401
        refused = caller.post("/v1/classify", json=BODY)
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["code"] == "key_required"
        assert caller.post("/v1/classify", json=BODY, headers={"X-API-Key": newsroom}).status_code == 200
        assert [status(caller, "label", editor) for _ in range(4)] == [200, 200, 200, 429]
        limited = caller.get("/v1/labels/queue", headers={"Authorization": f"bearer {editor}"})
        assert 1 <= int(limited.headers["retry-after"]) <= 21
        assert limited.json()["code"] == "rate_limited"
        assert status(caller, "classify", newsroom) == 200


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("keys: [{name: a, sha256: zz, scopes: [label]}]", "sha256"),
        ("keys: [{name: a, sha256: '" + "0" * 64 + "', scopes: [root]}]", "scopes"),
        ("keys: [" + ", ".join(["{name: a, sha256: '" + "0" * 64 + "', scopes: [label]}"] * 2) + "]", "a name of its own"),
        ("- a", "must hold keys"),
    ],
)
def test_a_file_of_keys_that_is_wrong_is_refused_at_start(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(content, "utf-8")
    with pytest.raises(UsageError, match=words):
        Keys.load(path, open_classify=False)
