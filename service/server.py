"""The server process: bundle, socket and engine before uvicorn, so that what is wrong is said before anything is served."""

import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import wait

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from models.classifier import Classifier
from models.errors import UsageError
from models.registry import Source, keep_for_all, resolve
from service.app import Opened, create_app
from service.auth import Keys
from service.bell import Bell
from service.page import load_codebook
from service.protocol import GuardedConfig
from service.settings import Settings

_log = logging.getLogger("stancewire")


def run_server(settings: Settings) -> None:
    """Serve until a signal; UsageError where the address cannot be bound, BundleError where the engine cannot be loaded."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    source = resolve(settings.model)
    listener = bind(settings.host, settings.port)
    # uvicorn drains, then raises the signal again for the handler that stood before its own: a stop on request is no failure
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with listener:
        if settings.workers == 1:
            app = create_app(settings, Opened(Classifier(source.bundle, workers=settings.engine_threads or None), source.version))
            _announce(source, listener)
            uvicorn.Server(_config(settings, app)).run(sockets=[listener])
        else:
            load_codebook(settings.codebook)
            Keys.load(settings.api_keys_file, open_classify=settings.open_classify)
            keep_for_all()
            Classifier(source.bundle).close()  # what is wrong with it is said here, once
            _announce(source, listener)
            # the bundle is verified and local by now, and a process of its own opens it: no registry is asked again at the start
            supervisor = Multiprocess(_config(settings, partial(_one_of_several, settings, source, Bell())), sockets=[listener])
            supervisor.run()
            if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
                sys.exit(STARTUP_FAILURE)  # the log says why; whoever watches over the service is not told that all is well


def _one_of_several(settings: Settings, source: Source, bell: Bell) -> FastAPI:
    """The application of one process beside others; it finishes what it has accepted and stops once the process that started it is
    gone. Left alone it would keep the port, and nobody would hear of it."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_stop_with, args=(parent.sentinel,), name="parent", daemon=True).start()
    return create_app(settings, source, bell)


def _stop_with(parent: int) -> None:
    wait([parent])
    _log.error("the process that watches over this one is gone; this one stops as well")
    os.kill(os.getpid(), signal.SIGTERM)


def _announce(source: Source, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    name = f"{source.bundle.manifest.name} {source.version} ({source.bundle.id[:12]})"
    print(f"Stancewire answers on http://{shown}:{port} with {name}", flush=True)


def _config(settings: Settings, app: FastAPI | Callable[[], FastAPI]) -> uvicorn.Config:
    return GuardedConfig(
        app,
        head_timeout_s=settings.body_timeout_s,
        factory=not isinstance(app, FastAPI),
        workers=settings.workers,
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        server_header=False,
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on `host` and `port`; UsageError says why there is none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except ValueError as error:  # a name that cannot be one: UnicodeError from IDNA, or a NUL
        raise UsageError(f"{host[:80]!r} is not a host name. Give an address of this machine with --host.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} on {host} is in use. Stop what uses it, or choose another with --port.") from error
        if error.errno == errno.EACCES:
            raise UsageError(f"port {port} may not be bound by this user. Choose one above 1023 with --port.") from error
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror}). Give an address of this machine with --host."
        ) from error
    return listener
