"""The app as its users start it, in a process of its own, and what a program that is no browser can say to it.

serving     a running server: its port, its log, and where it has tried to connect to
session     one visitor's websocket, opened with any headers
page        ask for a page there, and read what comes
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
STREAMLIT = (sys.executable, "-m", "streamlit", "run", "app.py")

_WATCH = '''
"""Writes down every name that is looked up and every address that is connected to outside this machine."""
import os, socket
_diary, _look_up, _connect = os.environ["OUTSIDE_DIARY"], socket.getaddrinfo, socket.socket.connect

def _note(host):
    if isinstance(host, bytes):
        host = host.decode()
    if isinstance(host, str) and not (host in ("", "localhost", "::1", "::") or host.startswith(("127.", "0.0.0.0"))):
        with open(_diary, "a") as file:
            file.write(f"{host}\\n")
        return True

def getaddrinfo(host, *arguments, **options):
    if host != socket.gethostname() and _note(host):
        raise socket.gaierror(socket.EAI_NONAME, "no name is looked up in tests")
    return _look_up(host, *arguments, **options)

def connect(self, address):
    if self.family != socket.AF_UNIX and self.type & socket.SOCK_STREAM and _note(address[0]):
        raise OSError("nothing outside is connected to in tests")
    return _connect(self, address)

socket.getaddrinfo, socket.socket.connect = getaddrinfo, connect
'''


@dataclass
class Serving:
    """A server that runs."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    diary: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def outside(self) -> list[str]:
        """Hosts elsewhere that the server has tried to reach."""
        return self.diary.read_text().split() if self.diary.exists() else []


@contextmanager
def serving(
    folder: Path, *options: str, start: Sequence[str] = STREAMLIT, where: Path = ROOT, **variables: str
) -> Iterator[Serving]:
    """`streamlit run app.py`, or what else starts the app, with more options and environment variables; ended at the
    end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(_WATCH)
    log, diary = folder / "log", folder / "outside"
    path = [str(folder / "watch"), *variables.pop("PYTHONPATH", "").split(os.pathsep)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "OUTSIDE_DIARY": str(diary), **variables}
    env["STREAMLIT_SERVER_PORT"] = str(port)
    with log.open("w") as output:
        process = subprocess.Popen([*start, *options], cwd=where, env=env, stdout=output, stderr=subprocess.STDOUT)
    server = Serving(port, process, log, diary)
    try:
        _wait(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        print(log.read_text())  # shown where a test fails


def _wait(server: Serving) -> None:
    until = time.monotonic() + 300  # the machine may be busy
    while True:
        try:
            httpx.get(f"{server.address}/_stcore/health", timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            assert server.process.poll() is None, f"The server stopped:\n{server.log.read_text()}"
            assert time.monotonic() < until, f"The server does not answer:\n{server.log.read_text()}"
            time.sleep(0.1)


@contextmanager
def session(server: Serving, *, host: str | None = None, origin: str | None = None, **headers: str) -> Iterator[Any]:
    """A visitor's websocket, with these headers.

    Raises:
        websockets.exceptions.InvalidStatus: The server does not let it in.
    """
    from websockets.sync.client import connect

    own = f"127.0.0.1:{server.port}"
    host = host or own
    with socket.create_connection(("127.0.0.1", server.port)) as wire:
        uri = f"ws://{host}/_stcore/stream"
        options: dict[str, Any] = {
            "origin": origin or f"http://{host}",
            "subprotocols": ["streamlit"],
            "max_size": None,
        }
        with connect(uri, sock=wire, proxy=None, additional_headers=headers, **options) as opened:
            yield opened


@dataclass
class Said:
    """All that the server has sent for a page, and the id that it has given the session."""

    raw: bytes
    session: str


def page(opened: Any, claims: str, query: str = "", name: str = "") -> Said:
    """Ask for a page, as a browser at the address `claims` would, and wait until its script has run."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    ask = BackMsg()
    ask.rerun_script.query_string = query
    ask.rerun_script.page_name = name
    ask.rerun_script.context_info.url = claims
    opened.send(ask.SerializeToString())
    said = Said(b"", "")
    while True:
        raw = opened.recv(timeout=60)
        said.raw += raw
        message = ForwardMsg.FromString(raw)
        if message.WhichOneof("type") == "script_finished":
            return said
        if message.WhichOneof("type") == "new_session":
            said.session = message.new_session.initialize.session_id
