"""What stands before Streamlit, spoken to as no browser would: other hosts, other origins, uploads nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import InvalidStatus

from circuit.jobs.attribute import attribute
from circuit.runs.config import RunConfig
from circuit.runs.library import RunLibrary
from tests.streamlit_server import Serving, page, serving, session
from tests.visitor import NUMBERS

NAME = "The run of somebody else"


@pytest.fixture(scope="module")
def server(small: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server on this machine's own address, with one run, as on a laptop."""
    folder = tmp_path_factory.mktemp("server")
    library = RunLibrary(folder / "runs")
    run = attribute(RunConfig(small, NUMBERS))
    library.save(run)
    library.label(run.id, NAME, "")
    with serving(folder, EDGESCOPE_RUNS=str(folder / "runs")) as started:
        yield started


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "127.0.0.2"])
def test_who_uses_this_machine_by_its_own_name_sees_all_runs(server: Serving, host: str) -> None:
    with session(server, host=host.format(port=server.port)) as opened:
        assert NAME.encode() in page(opened, f"http://localhost:{server.port}/").raw


@pytest.mark.parametrize("host", ["rebound.example:{port}", "localhost.example", "127.0.0.1.example:81", "10.0.0.5"])
def test_a_page_whose_name_leads_here_sees_no_runs_whatever_it_claims(server: Serving, host: str) -> None:
    with session(server, host=host.format(port=server.port)) as opened:
        assert NAME.encode() not in page(opened, f"http://localhost:{server.port}/").raw


def test_a_foreign_origin_is_refused_and_nobody_is_asked_about_it(server: Serving) -> None:
    def refused(number: int) -> int:
        try:
            with session(server, origin=f"https://elsewhere{number}.example"):
                return 200
        except InvalidStatus as error:
            return error.response.status_code

    with ThreadPoolExecutor(10) as pool:
        codes = list(pool.map(refused, range(10)))
    assert codes == [403] * 10
    assert server.outside() == []


def test_a_server_for_the_network_asks_nobody_for_its_address(tmp_path: Path) -> None:
    with serving(tmp_path, "--server.address", "0.0.0.0") as server:
        with suppress(InvalidStatus), session(server, origin="https://elsewhere.example"):
            pass
        assert server.outside() == []


def test_no_other_site_may_frame_a_page_and_none_loads_pictures_from_elsewhere(server: Serving) -> None:
    for path in ("/", "/Prompts", "/_stcore/health", "/nothing"):
        headers = httpx.get(server.address + path).headers
        assert headers["X-Frame-Options"] == "SAMEORIGIN"
        assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
        assert "img-src 'self' data: blob:;" in headers["Content-Security-Policy"]


def test_the_servers_numbers_are_closed(server: Serving) -> None:
    for path in ("/_stcore/metrics", "/_stcore/metrics/", "/_stcore/metrics?families=cache_memory_bytes"):
        assert httpx.get(server.address + path).status_code == 404


def _megabytes(server: Serving) -> float:
    return psutil.Process(server.process.pid).memory_info().rss / 1e6


def _put(client: httpx.Client, server: Serving, session_id: str, file_id: str, megabytes: float) -> int:
    token = client.cookies["_streamlit_xsrf"]
    address = f"{server.address}/_stcore/upload_file/{session_id}/{file_id}"
    content = file_id[:1].encode() * round(megabytes * 2**20)
    return client.put(address, files={"file": ("a", content)}, headers={"X-Xsrftoken": token}).status_code


@pytest.fixture
def client(server: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as opened:
        opened.get(f"{server.address}/_stcore/health")
        yield opened


def test_uploads_that_no_page_asked_for_do_not_fill_the_memory(server: Serving, client: httpx.Client) -> None:
    with session(server) as opened:
        session_id = page(opened, server.address).session
        assert _put(client, server, session_id, "warm-up", 19) == 204
        before = _megabytes(server)
        for number in range(30):
            assert _put(client, server, session_id, f"{number}-made-up", 19) == 204
        assert _megabytes(server) - before < 150  # all thirty would be 570


def test_who_is_not_there_uploads_nothing(server: Serving, client: httpx.Client) -> None:
    assert _put(client, server, "made-up", "file", 1) == 400
