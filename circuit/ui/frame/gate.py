"""What stands between the browser and Streamlit: a few requests that never reach it, and headers on all that it sends.

never_ask_outside    keep Streamlit from asking a server elsewhere which address this one has
MIDDLEWARE           for `st.App`: every request passes these
  Headers              no other site may frame a page, and no page loads a picture from elsewhere
  Closed               addresses that are not for visitors
  Uploads              bounds what visitors' uploads hold of the memory

app = st.App(__file__, middleware=MIDDLEWARE)
"""

from __future__ import annotations

from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config, net_util, runtime
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager

CLOSED = ("/_stcore/metrics",)
"""Numbers about the server's memory and sessions: they take time to count, and are nobody's business."""
_UPLOAD = "/_stcore/upload_file/"
_HEADERS = {
    "Content-Security-Policy": "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; frame-ancestors 'self'",
    "X-Frame-Options": "SAMEORIGIN",  # the last part again, for old browsers
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # who has a run's address may see the run: no link takes it elsewhere
}
_OF_A_SESSION, _OF_ALL = 2, 10
"""How many uploads of the largest size, `server.maxUploadSize`, a session and all together may keep in memory."""


def never_ask_outside() -> None:
    """Tell Streamlit this machine's address in its own network, and that it has no other.

    To decide about a request of another site, Streamlit 1.67 compares that site with every address of this machine, and
    asks a server elsewhere for the outer one. It waits for the answer in the one thread that serves everybody. Whoever
    uses an outer address sets `browser.serverAddress`, which Streamlit compares first.
    """
    net_util._external_ip = net_util.get_internal_ip()


class Headers:
    """Adds headers to every answer, except where there are some of that name."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers)


class Closed:
    """Answers as if there were nothing at some addresses."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith(CLOSED):
            await PlainTextResponse("Not Found", status_code=404)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class Uploads:
    """Drops the oldest uploads where a session, or all together, hold too many bytes.

    Streamlit takes a file for any id that somebody makes up, as long as the session is there, and keeps it as long as
    the session. A page reads its upload as soon as it is there, so an old one may go.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._held: dict[tuple[str, str], int] = {}  # bytes by session and file, the oldest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or scope["method"] != "PUT" or _UPLOAD not in path:
            await self.app(scope, receive, send)
            return
        received, taken = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def answered(message: Message) -> None:
            nonlocal taken
            taken = taken or (message["type"] == "http.response.start" and message["status"] < 300)
            await send(message)

        await self.app(scope, counted, answered)
        if taken:
            session, _, file = path.partition(_UPLOAD)[2].partition("/")
            self._hold((unquote(session), unquote(file)), received)

    def _hold(self, upload: tuple[str, str], size: int) -> None:
        self._held.pop(upload, None)
        self._held[upload] = size
        largest = config.get_option("server.maxUploadSize") * 2**20
        self._drop(_OF_A_SESSION * largest, upload[0])
        self._drop(_OF_ALL * largest)

    def _drop(self, most: float, session: str | None = None) -> None:
        """Drop the oldest of a session, or of all, until the others hold as much as they may."""
        held = [upload for upload in self._held if session in (None, upload[0])]
        size = sum(self._held[upload] for upload in held)
        files = runtime.get_instance().uploaded_file_mgr
        assert isinstance(files, MemoryUploadedFileManager)  # there is no other in Streamlit
        for upload in held:
            if size <= most:
                break
            size -= self._held.pop(upload)
            files.remove_file(*upload)


MIDDLEWARE = [Middleware(Headers), Middleware(Closed), Middleware(Uploads)]
