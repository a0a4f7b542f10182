"""The real server process and the raw socket: what a test client cannot do."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.bundle import open_bundle, save_bundle
from models.errors import UsageError
from service.server import bind
from tests.conftest import Serving, children

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def exchange(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def test_slow_and_broken_bodies_then_a_clean_stop(tiny_bundle: Path, serving: Serving) -> None:
    with serving(tiny_bundle, body_timeout_s=0.5) as (process, port):
        late = exchange(port, HEAD + b"Content-Length: 100\r\n\r\n{")
        assert late.startswith(b"HTTP/1.1 408 ") and b'"code":"body_timeout"' in late
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        body = b'{"sentences": ["We will talk."]}'
        answer = exchange(port, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"code":"head_timeout"' in exchange(port, b"POST /v1/classify HTTP/1.1\r\nHost:")
        assert exchange(port, b"") == b"", "who says nothing is left"
        huge = exchange(port, b"GET / HTTP/1.1\r\n" + b"X-Large: %s\r\n" % (b"a" * 1000) * 80)
        assert huge.startswith(b"HTTP/1.1 431 ") and b'"code":"head_too_large"' in huge
        for garbage in (b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\n\r\n"):
            answer = exchange(port, garbage)
            assert answer.startswith(b"HTTP/1.1 4") and b"application/problem+json" in answer, (garbage, answer)
        metrics = exchange(port, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert b'status="408"' in metrics and b'status="5' not in metrics
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors.replace("WARNING:  Invalid HTTP request received.\n", "")) == (0, "")


def test_an_engine_that_cannot_be_loaded_is_said_before_anything_is_served(tiny_bundle: Path, tmp_path: Path) -> None:
    whole = open_bundle(tiny_bundle)

    def write(folder: Path) -> None:
        for name in whole.manifest.files:
            shutil.copyfile(whole.path / name, folder / name)
        (folder / whole.manifest.engine.file).write_bytes(b"not a network")

    save_bundle(tmp_path / "broken", whole.manifest, write)
    command = [sys.executable, "-m", "stancewire", "serve", "--port", "0", "--model", str(tmp_path / "broken")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert "cannot be run" in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize("host", ["..", "a" * 70, "a\0b", "192.0.2.1"])
def test_an_address_that_cannot_be_bound_names_the_option(host: str) -> None:
    with pytest.raises(UsageError, match="--host"):
        bind(host, 0)


def test_a_port_in_use_names_the_option() -> None:
    with bind("127.0.0.1", 0) as listener, pytest.raises(UsageError, match="--port"):
        bind("127.0.0.1", listener.getsockname()[1])


def test_processes_stop_with_the_one_that_watches_over_them(tiny_bundle: Path, serving: Serving) -> None:
    with serving(tiny_bundle, workers=2) as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        workers = children(process.pid)
        assert len(workers) == 2
        process.kill()
        process.wait()
        for _ in range(300):
            running = {worker for worker in workers if Path(f"/proc/{worker}").exists()}
            if not running:
                break
            time.sleep(0.1)
        for worker in running:
            os.kill(worker, signal.SIGKILL)
        assert not running
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
