"""Jobs of a process whose clock jumps, for `test_server.py`: a process of its own, as Dask and Tornado must both have
the jumping clock from their import on."""

from __future__ import annotations

import time

shift, real = 0.0, time.time
time.time = lambda: real() + shift  # before anything else is imported

from circuit.workers.server import JobServer  # noqa: E402
from tests.job_functions import count, running, works  # noqa: E402


def main() -> None:
    global shift
    server = JobServer(warm_up=[])
    try:
        assert works(server)
        for by in (86400.0, -86400.0, -86400.0):
            job = running(server.submit(count, {"steps": 60, "seconds": 0.05}))
            # Dask waits ten milliseconds from one message to the next, until a time of day: a day from now, if set back
            sent = [server._client.submit(abs, -1, pure=False)]
            time.sleep(0.003)
            shift += by
            sent.append(server._client.submit(abs, -1, pure=False))
            assert job.wait(300)
            assert job.state == "finished", job.error
            assert works(server)
            del sent
    finally:
        server.close()


if __name__ == "__main__":
    main()
