"""Preparing pictures in several processes: in order, bounded, and never hanging.

    parent --chunk of records--> worker --one result per record--> parent --in order--> caller

Estimated masks that an earlier run has left travel with the records, and new ones go to the journal
as they arrive, whatever has to be written first.

Every worker has its own pipe, so a worker that dies is noticed at once and the picture it had in
hand is known. Workers leave by themselves when their parent is gone. They are started through a
fork server: forking a process with threads (torch, numba) is unsafe, and spawning would import
everything once for each.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess

from pipeline.sources.estimated import EstimatedMask
from pipeline.sources.mask_journal import MaskJournal
from pipeline.sources.prepare import BadPicture, Prepared, PrepareSettings, prepare
from pipeline.sources.record import Record

_CHUNK = 4  # records sent at once
_CHUNKS_AHEAD = 2  # sent to a worker before its results are back, so that it never waits
_FILES_PER_WORKER = 3  # that are open here: its pipe, and two of multiprocessing
_MORE_FILES = 13  # whatever the number of workers; measured
_MAX_WAITING = 64  # results per worker that may wait for an earlier one

Outcome = Prepared | BadPicture
_Task = tuple[Record, EstimatedMask | None]  # and what is known of its mask


class WorkerDied(RuntimeError):
    """A worker process ended in the middle of its work."""


@dataclass(kw_only=True, slots=True)
class _Worker:
    process: ForkServerProcess
    pipe: Connection
    pending: deque[int] = field(default_factory=deque)  # numbers of the records it has, in order


def start_early(settings: PrepareSettings, num_workers: int) -> None:
    """Let the process that workers will be forked from begin with its imports: seconds.

    Raises:
        OSError: so many workers need more open files than are allowed.
    """
    _check_open_files(num_workers)
    _context(settings)
    forkserver.ensure_running()


def prepare_all(
    records: Sequence[Record],
    settings: PrepareSettings,
    *,
    num_workers: int,
    journal: MaskJournal | None = None,
) -> Generator[tuple[Record, Outcome], None, None]:
    """Prepare records and yield each with its outcome, in their order.

    Args:
        num_workers: processes; 0 prepares in this one.
        journal: of the masks that `settings.masks` makes; None: there is no going on with them.

    Raises:
        OSError: the journal cannot be written.
        WorkerDied: a worker was killed or crashed; names the picture.
    """
    if num_workers == 0:
        for record in records:
            (task,) = _tasks([record], journal)
            outcome = _outcome(task, settings)
            _note(record, outcome, journal)
            yield record, outcome
        return
    with _started(min(num_workers, len(records)), settings) as workers:
        yield from zip(records, _in_order(records, workers, journal), strict=True)


def _tasks(records: Sequence[Record], journal: MaskJournal | None) -> list[_Task]:
    return [(record, None if journal is None else journal.find(record.key)) for record in records]


def _note(record: Record, outcome: Outcome, journal: MaskJournal | None) -> None:
    """Enter a mask in the journal, unless it was sent from there."""
    if journal is None or isinstance(outcome, BadPicture) or outcome.estimated is None:
        return
    if journal.find(record.key) != outcome.estimated:
        journal.add(record.key, outcome.estimated)


def _in_order(
    records: Sequence[Record], workers: list[_Worker], journal: MaskJournal | None
) -> Iterator[Outcome]:
    """Hand out records to whoever has room and yield outcomes in the order of the records."""
    arrived: dict[int, Outcome] = {}
    num_sent = num_yielded = 0
    while num_yielded < len(records):
        for worker in workers:
            while (
                num_sent < len(records)
                and len(worker.pending) <= (_CHUNKS_AHEAD - 1) * _CHUNK
                and num_sent - num_yielded < _MAX_WAITING * len(workers)
            ):
                numbers = range(num_sent, min(num_sent + _CHUNK, len(records)))
                _send(worker, _tasks(records[numbers.start : numbers.stop], journal), records)
                worker.pending.extend(numbers)
                num_sent = numbers.stop
        for number, outcome in _receive(workers, records):
            _note(records[number], outcome, journal)
            arrived[number] = outcome
        while num_yielded in arrived:
            yield arrived.pop(num_yielded)
            num_yielded += 1


def _send(worker: _Worker, chunk: list[_Task], records: Sequence[Record]) -> None:
    try:
        worker.pipe.send(chunk)
    except OSError as error:
        raise _death_of(worker, records) from error


def _receive(workers: list[_Worker], records: Sequence[Record]) -> Iterator[tuple[int, Outcome]]:
    """Wait for results and take one from every worker that has some, with its record's number."""
    ready = wait([worker.pipe for worker in workers if worker.pending])
    for worker in workers:
        if worker.pipe not in ready:
            continue
        try:
            outcome: Outcome = worker.pipe.recv()
        except (EOFError, OSError) as error:
            raise _death_of(worker, records) from error
        yield worker.pending.popleft(), outcome


def _death_of(worker: _Worker, records: Sequence[Record]) -> WorkerDied:
    worker.process.join(timeout=5)
    code = worker.process.exitcode
    how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit status {code}"
    hint = "; out of memory? try fewer --workers" if code == -signal.SIGKILL else ""
    key = records[worker.pending[0]].key if worker.pending else "its first picture"
    return WorkerDied(f"a worker process died ({how}) at {key}{hint}")


@contextmanager
def _started(num_workers: int, settings: PrepareSettings) -> Iterator[list[_Worker]]:
    """Start workers; on leaving, for whatever reason, none is left."""
    context = _context(settings)
    workers: list[_Worker] = []
    try:
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, settings), daemon=True)
            process.start()
            theirs.close()  # or the end of the worker would not be seen
            workers.append(_Worker(process=process, pipe=ours))
        yield workers
    finally:
        for worker in workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in workers:
            worker.process.join(timeout=5)
            worker.process.kill()  # a no-op for the dead: nobody waits for one that hangs
            worker.process.join()


def _check_open_files(num_workers: int) -> None:
    """See that all workers can be reached: once they start, multiprocessing prints tracebacks."""
    count = _FILES_PER_WORKER * num_workers + _MORE_FILES
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        raise OSError(
            error.errno, f"{os.strerror(error.errno or 0)} ({num_workers} workers need {count})"
        ) from error
    finally:
        for number in opened:
            os.close(number)


def _context(settings: PrepareSettings) -> ForkServerContext:
    makers = [] if settings.masks is None else [type(settings.masks).__module__]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, *makers])  # once, not by every worker
    return context


def _work(pipe: Connection, settings: PrepareSettings) -> None:
    """What a worker does: prepare what comes until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    try:
        while True:
            for task in pipe.recv():
                pipe.send(_outcome(task, settings))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is done, or gone


def _outcome(task: _Task, settings: PrepareSettings) -> Outcome:
    record, known = task
    try:
        return prepare(record, settings, known)
    except BadPicture as error:
        return error
