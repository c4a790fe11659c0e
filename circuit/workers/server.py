"""Jobs: long computations in worker processes, with progress, cancelling and a queue.

    page (any session's thread) --submit--> FairQueue --one at a time per worker--> circuit.workers.worker.work
                                <--state--- Job       <--progress events, outcome--

``JobServer``  one per web process: the queue, the client of the cluster, the jobs it remembers
``Job``        one job as its owner sees it; no attribute ever waits for the network

    server = JobServer()                                # returns at once; the worker starts meanwhile
    job = server.submit(attribute, request, title="IOI", owner=session)  # attribute(request, *, progress, cancelled)
    job.state, job.step, job.total, job.remaining       # from any thread; later: server.get(job.id)
    scores = job.result()                               # once job.state is "finished"

A job function is module-level, takes a picklable request and knows no Dask. It calls ``progress(step, total,
message)`` as often as it likes, and raises ``JobCancelled`` when ``cancelled()`` says so. A job that does not, or
that takes too much memory, costs the worker process its life and nobody else anything: Dask's nanny starts another.

The queue is kept here, not in Dask: Dask holds one job per worker, so ending a worker can only ever hit the job
that runs in it, and who comes next is decided in one place (``circuit.workers.queue``).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import pickle
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle

from circuit.common.errors import CircuitError, JobCancelled, JobError, WorkerLostError
from circuit.workers import worker
from circuit.workers.cluster import LocalCluster, places
from circuit.workers.job import Ahead, Job, unexpected
from circuit.workers.queue import FairQueue, place_of

_log = logging.getLogger(__name__)
_TICK = 0.1  # seconds between two looks at a running job, and at most one progress event in as many
_UNRESPONSIVE = 30.0  # seconds after which a worker that we have ended, but still seems there, is given up
_SILENT = 10.0  # seconds without a heartbeat after which a worker of somebody else's cluster may have been stopped
_SET_BACK = 5.0  # seconds by which a clock may be set back while nobody need start again
_TEND = 1.0  # seconds between two looks at all jobs, and at a cluster that is not ours
PER_JOB = 12
"""This many requests of a group count as one job."""
_MOST_FIGURES = 2000
"""The latest so many figures of a job are kept."""
_MOST_KEPT = 256e6  # bytes of finished jobs and their results
_PER_JOB = 20_000  # bytes of a job beside its result, roughly


class _GiveWay(JobCancelled):
    """Asks a job to stop that will wait again."""


class JobServer:
    """Runs jobs on Dask workers, fairly among their owners. Every method may be called from any thread.

    ``address``         a scheduler to use; without one, workers of our own are started and ended with us. Such a
                        cluster should be ours alone, with nannies, one thread per worker, and ``--preload
                        circuit.workers.worker``; Dask's own settings name its certificates. As many jobs run at once as
                        it has workers, which may come and go
    ``devices``         of our own workers, one each: "cpu", "cuda:0"
    ``cpu_workers``     how many workers "cpu" means
    ``memory_limit``    of each worker of our own: a share of the machine's memory or "8 GB"; 0.8 shared by all
    ``warm_up``         modules that a worker of our own imports as soon as it is up
    ``jobs_per_owner``  how many jobs an owner may have waiting or running; of a group, twelve count as one
    ``jobs_per_place``  the same for all owners "place/name" of one place
    ``jobs_in_queue``   how many jobs may wait, of all owners together
    ``check``           called with every request before it is accepted; raises what the owner is told
    ``short``           says of a function and its request whether it takes seconds only: such a job goes before others
    ``watcher``         says who is asking just now, where a job is submitted or asked for by its id; "" is nobody
    ``present``         says whether such a one is still there; jobs that they have asked for are watched until then
    ``grace``           seconds that a cancelled job has to stop by itself
    ``abandon_after``   seconds after which a job that nobody has asked about is cancelled
    ``forget_after``    the same for the result of one that is over
    ``give_way_after``  seconds after which a running job that nobody watches makes room for one that somebody does: it
                        waits again, behind those that are watched
    ``longest``         seconds after which a job is stopped
    ``start_timeout``   seconds that a worker may take to begin a job

    Raises:
        SettingsError: A device that this machine does not have.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        devices: Sequence[str] = ("cpu",),
        cpu_workers: int = 1,
        memory_limit: float | str | None = None,
        warm_up: Sequence[str] = worker.MODULES,
        jobs_per_owner: int = 100,
        jobs_per_place: int = 100,
        jobs_in_queue: int = 100,
        check: Callable[[Any], object] | None = None,
        short: Callable[[worker.JobFunction, Any], bool] = lambda function, request: False,
        watcher: Callable[[], str] = lambda: "",
        present: Callable[[str], bool] = lambda who: False,
        grace: float = 1.2,  # ending a worker takes a few tenths more: a device is free within two seconds
        abandon_after: float = 600.0,
        give_way_after: float = 10.0,
        forget_after: float = 3600.0,
        longest: float | None = None,
        start_timeout: float = 120.0,
    ) -> None:
        self._address = address
        self._cluster_options: dict[str, Any] = {
            "devices": devices,
            "cpu_workers": cpu_workers,
            "memory_limit": memory_limit,
            "warm_up": warm_up,
        }
        self._jobs_per_owner = jobs_per_owner
        self._jobs_per_place = jobs_per_place
        self._jobs_in_queue = jobs_in_queue
        self._check = check
        self._short = short
        self._watcher = watcher
        self._present = present
        self._grace = grace
        self._abandon_after = abandon_after
        self._give_way_after = give_way_after
        self._forget_after = forget_after
        self._longest = longest
        self._start_timeout = start_timeout

        self._changed = threading.Condition()  # guards the next five and every job's state
        self._queue: FairQueue[Job] = FairQueue(lambda job: job.watched)
        self._jobs: dict[str, Job] = {}
        self._devices: tuple[str, ...] = ()
        self._lanes = 0
        self._carrying = 0
        self._closing = threading.Event()

        self._connecting = threading.Lock()  # guards the next three
        self._cluster: LocalCluster | None = None
        self._client: Any = None
        self._topic = ""
        self._lost = False  # whether a scheduler that is not ours could not be reached when last asked
        self._out_of_memory: set[str] = set()  # addresses of workers that the nanny ended for it
        self._set_back = -math.inf  # when the machine's clock was last set back
        self._ended: dict[str, float] = {}  # addresses of workers that we ended lately, and when

        atexit.register(self.close)
        if address is None:
            self._have([place[worker.DEVICE] for place in places(devices, cpu_workers)])
        threading.Thread(target=self._tend, name="job-server", daemon=True).start()

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each worker: "cpu", "cuda:0"; with a cluster that is not ours, also its machine."""
        return self._devices

    @property
    def workers(self) -> int:
        """How many jobs can run at once; 1 while a cluster that is not ours has no workers."""
        return len(self._devices) or 1

    @property
    def ready(self) -> bool:
        """Whether there are a scheduler and workers to hand jobs to. Jobs are taken in either case."""
        return self._client is not None and bool(self._devices)

    def submit(
        self,
        function: worker.JobFunction,
        request: Any,
        *,
        title: str = "",
        owner: str = "",
        group: str | None = None,
        note: Any = None,
        keep: Callable[[Any], object] | None = None,
    ) -> Job:
        """Queue ``function(request, progress=..., cancelled=...)``. What it is given is what ``request`` is now.

        Args:
            function: A module-level function.
            request: What it is to work on: anything that can be pickled.
            title: What the job is called on the page.
            owner: Who wants it; workers are shared fairly between owners.
            group: Jobs of an owner with the same group count as one for the limits.
            note: Kept with the job for whoever finds it again, and not sent to the worker.
            keep: Called with the result before the job is over, in a thread of the server's, whether or not anybody
                still waits for it.

        Raises:
            JobError: The owner, or all owners together, have as many jobs as allowed; or the server is shutting down.
            CircuitError: What ``check`` says.
        """
        if self._check is not None:
            self._check(request)
        payload = cloudpickle.dumps((function, request))
        job = Job(self, payload, title, owner, group, note, keep, self._short(function, request))
        self._watch(job)
        with self._changed:
            self._admit(owner, group)
            self._jobs[job.id] = job
            self._queue.add(job, owner, group, short=job.short)
            self._changed.notify_all()
        return job

    def adopt(self, job: Job, requests: Sequence[Any]) -> None:
        """Let a job that others carry be found, cancelled and forgotten like those in the queue.

        Its ``requests`` are submitted with its id as their group: that counts as one job of its owner's for each twelve
        of them until it is over (but always leaves room for one more), and is let in here once and for all.

        Raises:
            JobError: As ``submit``.
            CircuitError: As ``submit``.
        """
        if self._check is not None:
            self._check(requests)
        self._watch(job)
        jobs = max(min(math.ceil(len(requests) / PER_JOB), self._jobs_per_owner - 1), 1)
        with self._changed:
            self._admit(job.owner, job.id, jobs)
            self._queue.hold(job, job.owner, job.id, jobs)
            self._jobs[job.id] = job

    def _admit(self, owner: str, group: str | None, jobs: int = 1) -> None:
        """Refuse what is too much, unless it belongs to a group that has been let in."""
        if self._closing.is_set():
            raise JobError("The server is shutting down and takes no more jobs.")
        if self._queue.has_group(owner, group):
            return
        if (n := self._queue.jobs(owner)) + jobs > self._jobs_per_owner:
            if jobs > 1:
                raise JobError(
                    f"This counts as {jobs} jobs. You have {n} waiting or running, and this server allows "
                    f"{self._jobs_per_owner}: ask for less, or wait."
                )
            raise JobError(
                f"You have {n} jobs waiting or running, as many as this server allows. Wait for one, or cancel one."
            )
        place = place_of(owner)
        if place != owner and (n := self._queue.jobs(place=place)) + jobs > self._jobs_per_place:
            raise JobError(
                f"From your network address, {n} jobs are waiting or running, of all tabs and visitors there: as many "
                "as this server allows. Wait for one, or cancel one."
            )
        if (n := self._queue.jobs(running=False)) >= self._jobs_in_queue:
            raise JobError(f"{n} jobs are waiting already. Try again when some are done.")

    def forget(self, job: Job) -> None:
        """Let go of a job that is over, with its result."""
        with self._changed:
            if job.over:
                self._jobs.pop(job.id, None)

    def get(self, job_id: str) -> Job | None:
        """The job with this id, unless there never was one or it is forgotten."""
        job = self._jobs.get(job_id)
        if job is not None:
            self._watch(job)
        return job

    def _watch(self, job: Job) -> None:
        """Somebody asks for the job."""
        job._asked = time.monotonic()
        if (who := self._watcher()) and who not in job.watchers:
            with self._changed:
                job.watchers.add(who)

    def close(self) -> None:
        """Cancel every job and end the processes that we started. Safe to call twice."""
        with self._changed:
            if self._closing.is_set():
                return
            self._closing.set()
            for job in list(self._jobs.values()):
                self.finish(job, JobCancelled("The server was shut down."))
            self._changed.notify_all()
        atexit.unregister(self.close)
        with self._connecting:
            self._disconnect()

    # --- the queue ---

    def _next(self) -> Job | None:
        """Wait for the job to run next and take it off the queue; None once the server is closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing.is_set() or (self._carrying < len(self._devices) and len(self._queue))
            )
            if self._closing.is_set() or (job := self._queue.take()) is None:
                return None
            self._carrying += 1
            job._state = "starting"
            return job

    def ahead_of(self, job: Job) -> Ahead | None:
        with self._changed:
            if (place := self._queue.position(job)) is None:
                return None
            return Ahead(tuple(self._queue.running), place - 1)

    def stop(self, job: Job, why: CircuitError) -> None:
        """Take a job out of the queue, or ask for its end. ``why`` becomes its error."""
        with self._changed:
            if job in self._queue:
                self.finish(job, why)
            elif not job.over and (not job.cancelling or isinstance(job._stop, _GiveWay)):
                job._stop = why
                job._wake.set()

    def settle(self, job: Job) -> None:
        """Ask a job that is running to end with what it has."""
        if not job.over and job._worker is not None:
            self._send(worker.ask_to_settle, job.id, workers=[job._worker])

    def finish(self, job: Job, exception: CircuitError | None = None, value: Any = None) -> None:
        """Give a job its last state, unless it has one."""
        with self._changed:
            if job.over:
                return
            cancelled = isinstance(exception, JobCancelled)
            job._state = "finished" if exception is None else "cancelled" if cancelled else "failed"
            job._exception, job._value = exception, value
            job._ended = job._asked = time.monotonic()
            job._payload = b""
            job._over.set()
            job._wake.set()
            self._queue.end(job)

    def succeed(self, job: Job, value: Any) -> None:
        """Let a job's result be kept, and give it to its owner."""
        if job._keep is not None:
            try:
                job._keep(value)
            except Exception:  # the owner still gets the result
                _log.warning("The result of a job could not be kept.", exc_info=True)
        self.finish(job, value=value)

    def _tend(self) -> None:
        """Connect, and then look after all jobs, and after the workers of a cluster that is not ours."""
        with contextlib.suppress(Exception):  # the first job will meet the same problem and report it
            self._connect()
        clock = time.time() - time.monotonic()
        while not self._closing.wait(_TEND):
            before, clock = clock, time.time() - time.monotonic()
            if before - clock > _SET_BACK:
                self._start_again()
            self._sweep()
            if (own := self._cluster) is not None:
                own.end_stopped()
            if self._address is not None:
                self._count()

    def _start_again(self) -> None:
        """The machine's clock was set back: Dask, which waits for times of day, would stand still for as long."""
        _log.warning("The machine's clock was set back; jobs that were running begin again with new workers.")
        with self._connecting:  # whoever got the client before asked for it before this time
            self._set_back = time.monotonic()
            self._disconnect()

    def _sweep(self) -> None:
        """Stop what nobody waits for and what takes too long, forget what nobody has looked at."""
        now = time.monotonic()
        with self._changed:
            for job in self._jobs.values():
                job.watchers = {who for who in job.watchers if self._present(who)}
                if job.watchers and not job.over:
                    job._asked = now
            self._make_room(now)
            jobs = sorted(self._jobs.values(), key=lambda job: job._asked)
            self._forget([job for job in reversed(jobs) if job.over], now)
            for job in jobs:
                if not job.over and now - job._asked > self._abandon_after:
                    self.stop(job, JobCancelled("The job was cancelled because nobody had looked at it for a while."))
                elif self._longest is not None and job.elapsed > self._longest:
                    self.stop(job, JobError(
                        f"The job was stopped after {self._longest / 60:.0f} minutes, the longest that this server "
                        f"allows. {worker.SMALLER}"
                    ))  # fmt: skip

    def _forget(self, over: list[Job], now: float) -> None:
        """Forget finished jobs, given from the one asked for last on: those that nobody has asked for in a long time,
        and those beyond what results may take together. The last one stays, however large."""
        kept = 0.0
        for number, job in enumerate(over):
            kept += job.result_bytes + _PER_JOB
            if now - job._asked > self._forget_after or (number and kept > _MOST_KEPT):
                del self._jobs[job.id]

    def _make_room(self, now: float) -> None:
        """Let jobs that run and that nobody watches wait again, where others wait that somebody watches."""
        wanted = sum(job.watched for job in self._queue.waiting) if self._carrying >= len(self._devices) else 0
        unwatched = sorted((job for job in self._queue.running if not job.watched), key=lambda job: job._asked)
        for job in unwatched[:wanted]:
            if now - job._asked > self._give_way_after and not job.cancelling:
                self.stop(job, _GiveWay("The job made room for another."))

    # --- one thread per worker carries jobs to Dask ---

    def _have(self, devices: Sequence[str]) -> None:
        """Run as many jobs at once as there are workers. One that is gone costs no job that still runs."""
        with self._changed:
            self._devices = tuple(devices)
            while self._lanes < len(devices):
                threading.Thread(target=self._lane, name=f"job-lane-{self._lanes}", daemon=True).start()
                self._lanes += 1
            self._changed.notify_all()

    def _count(self) -> None:
        """See which workers a cluster that is not ours has, and whether they have been stopped."""
        try:
            workers = self._connect().scheduler_info()["workers"]
            self._lost = False
        except Exception:
            if not self._lost and not self._closing.is_set():  # once, not every second
                _log.warning("The scheduler at %s cannot be reached.", self._address, exc_info=True)
            self._lost, workers = True, {}
        for address, each in workers.items():
            if time.time() - each["last_seen"] > _SILENT:
                self._send(worker.end_stopped_worker, workers=[address], nanny=True)
        self._have(sorted(f"{each.get('device', 'a worker')} on {each['host']}" for each in workers.values()))

    def _lane(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._carry(job)
            except Exception:
                if not self._closing.is_set():
                    self.finish(job, unexpected("The workers could not be reached", traceback.format_exc()))
            finally:
                with self._changed:
                    self._carrying -= 1
                    self._changed.notify_all()

    def _connect(self) -> Any:
        """The client of a cluster that is alive: the one we have, or a new one."""
        with self._connecting:
            if self._client is not None:
                alive = self._cluster is None or self._cluster.alive()
                if alive and self._client.status == "running":
                    return self._client
                _log.warning("The job scheduler is gone; starting again.")
                self._disconnect()
            try:
                return self._start()
            except BaseException:
                self._disconnect()
                raise

    def _start(self) -> Any:
        from distributed import Client  # half a second, so not while the first page waits for this module

        if self._closing.is_set():
            raise JobError("The server is shut down.")
        address, security = self._address, None
        if address is None:
            self._cluster = LocalCluster(**self._cluster_options)
            security = self._cluster.security
            until = time.monotonic() + self._start_timeout
            while (address := self._cluster.address()) is None:
                if self._closing.is_set() or not self._cluster.alive() or time.monotonic() > until:
                    raise JobError("The job scheduler did not start.")
                time.sleep(0.05)
        client = Client(address, security=security, set_as_default=False, name="edgescope")
        self._topic = f"edgescope-{uuid.uuid4().hex}"
        client.subscribe_topic(self._topic, self._on_event)
        client.subscribe_topic("worker-restart-memory", self._on_memory)
        self._client = client
        return client

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        own, self._cluster = self._cluster, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close(timeout=2)
        if own is not None:
            own.close()

    def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        """A worker says that it has begun a job, or how far it is (on the client's thread)."""
        job = self._jobs.get(event[1]["id"])
        if job is None:
            return
        if job.over and event[1]["progress"] is None:
            # Its worker left before the result was released, and Dask computes it again: the next job need not wait.
            self._send(worker.ask_to_stop, job.id, workers=[event[1]["worker"]])
        with self._changed:
            if event[1]["progress"] is None:  # it begins, perhaps again: Dask moves jobs of workers that are retired
                job._worker = event[1]["worker"]
            if job._state == "starting":
                job._state, job._started = "running", time.monotonic()
            if job._state == "running" and event[1]["progress"] is not None:
                job._report(*event[1]["progress"])
                job.figures = [*job.figures, *event[1]["figures"]][-_MOST_FIGURES:]

    def _on_memory(self, event: tuple[float, dict[str, Any]]) -> None:
        self._out_of_memory.add(event[1]["worker"])

    def _carry(self, job: Job) -> None:
        """See one job through: hand it to Dask, stop it when asked to, and settle its last state."""
        asked = time.monotonic()
        client = self._connect()
        if job._stop is not None:
            self._obey(job)
            return
        try:
            future = client.submit(
                worker.work,
                job._payload,
                job.id,
                self._topic,
                key=f"job-{job.id}-{job._false_starts}",
                pure=False,
                retries=0,
            )
        except Exception:  # the client was closed under our hands
            if asked < self._set_back and self._begins_again(job):
                self._carry(job)
                return
            raise
        future.add_done_callback(lambda _: job._wake.set())
        began = time.monotonic()
        told = ended = None  # when the job was asked to stop, when its worker was ended
        while not (future.done() or job.over):
            job._wake.wait(_TICK)
            job._wake.clear()
            now = time.monotonic()
            if self._cluster is not None and not self._cluster.alive():
                break  # the next job starts another
            if asked < self._set_back:
                break  # a client that is being closed may take a job and never hand it over
            if job._worker is None and now - began > self._start_timeout:
                self.finish(job, JobError("The worker did not start in time. Try again."))
                self._give_up(client)
            elif job._stop is None:
                continue
            elif told is None:
                told = now
                self._send(worker.ask_to_stop, job.id, workers=None if job._worker is None else [job._worker])
            elif ended is None and now - told > self._grace:
                where = job._worker or _holder(client, future)
                if where is None:  # no worker has taken it, and none will
                    future.cancel()
                    break
                ended = now
                self._end(where)
            elif ended is not None and now - ended > _UNRESPONSIVE:
                self._give_up(client)
                break
        if (self._hit(future) or asked < self._set_back) and self._begins_again(job):
            self._carry(job)
        elif not job.over:
            self._settle(job, future)

    def _begins_again(self, job: Job) -> bool:
        with self._changed:
            if again := not job.over and job._stop is None:
                job._wait_again()
                job._state = "starting"
        return again

    def _end(self, where: str) -> None:
        """End a worker, and know for a while that it was we who did."""
        now = time.monotonic()
        with self._changed:
            self._ended = {address: at for address, at in self._ended.items() if now - at < _UNRESPONSIVE}
            self._ended[where] = now
        self._send(worker.end_worker, workers=[where], nanny=True)

    def _hit(self, future: Any) -> bool:
        """Whether a job died with a worker that we ended because of the one before it, which was over just then."""
        from distributed import KilledWorker

        if future.status != "error" or not isinstance(error := future.exception(), KilledWorker):
            return False
        ended = self._ended.pop(error.last_worker.address, -math.inf)
        return time.monotonic() - ended < _UNRESPONSIVE

    def _obey(self, job: Job) -> None:
        """End a job that has been asked to stop, or let it wait again."""
        with self._changed:
            if job._stop is None or not isinstance(job._stop, _GiveWay):
                self.finish(job, job._stop)
            elif not job.over:
                job._wait_again()
                self._queue.put_back(job)

    def _send(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Call a function in the workers without waiting: a job that holds the GIL keeps them from answering."""

        def call(client: Any) -> None:
            try:
                client.run(function, *arguments, on_error="ignore", **options)
            except Exception:
                if not self._closing.is_set():
                    _log.warning("The workers could not be told something.", exc_info=True)

        threading.Thread(target=call, args=(self._client,), daemon=True).start()

    def _give_up(self, client: Any) -> None:
        """Drop a cluster that no longer reacts. The next job starts one, if the cluster is ours to start."""
        with self._connecting:
            if client is self._client:
                self._disconnect()

    def _settle(self, job: Job, future: Any) -> None:
        from distributed import KilledWorker

        if future.status == "finished" and isinstance(job._stop, _GiveWay):
            job._stop = None if future.result(timeout=self._start_timeout)[0] == "finished" else job._stop
        if job._stop is not None:
            self._obey(job)
        elif future.status == "finished":
            state, pickled, progress, job.told = future.result(timeout=self._start_timeout)
            if progress is not None:
                job._report(*progress)
            if state == "finished":
                job.result_bytes = len(pickled)
                self.succeed(job, pickle.loads(pickled))
            elif state == "unexpected":
                self.finish(job, unexpected("The job stopped on an unexpected error", pickled))
            else:
                self.finish(job, pickle.loads(pickled))
        elif future.status == "error" and not isinstance(future.exception(), KilledWorker):
            error = future.exception()
            details = "".join(traceback.format_exception(error))
            self.finish(job, unexpected("The job could not be run", details))
        else:
            kind: type[JobError] = JobError
            if job._worker in self._out_of_memory:
                self._out_of_memory.discard(job._worker)  # the next one there may end for another reason
                what = "The worker ran out of memory and was stopped"
            else:
                what, kind = "The worker ran out of memory or was stopped from outside", WorkerLostError
            self.finish(job, kind(f"{what}; a new one takes the next job. {worker.SMALLER}"))
        future.release()


def _holder(client: Any, future: Any) -> str | None:
    """The worker that has taken a job and not said so yet: it may still import, too busy to hear of the cancel."""
    with contextlib.suppress(Exception):
        return next((address for address, keys in client.processing().items() if future.key in keys), None)
    return None
