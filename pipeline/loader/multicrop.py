"""MultiCropLoader: three threads that run ahead of the step, and the iterator that meets them.

 reading     ids of the step, their bytes into memory that is lent -> EncodedBatch
 decoding    into a free slot of the ring -> DecodedBatch; the bytes' memory back
 augmenting  params of those ids, executor -> MultiCropBatch; the slot back
 the caller  takes views, in the order of the steps

Each hands over through a channel that holds few batches: a slow consumer holds all of them back,
a slow stage starves those behind it, and nothing is overwritten before it is given back. An
exception in a thread is raised in the caller, with its stage and step; a stage that hangs is named
by the watchdog. close(), an early `break` inside `with`, or garbage collection end the threads.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch

from pipeline.augment import Executor
from pipeline.augment.params import ViewParams
from pipeline.batch import DecodedBatch, EncodedBatch, Ids, MultiCropBatch
from pipeline.devices import CPU
from pipeline.loader.decode import (
    BadSamples,
    Decoder,
    TooManyBadSamples,
    bad_lines,
    decode_batch,
    read_batch,
)
from pipeline.loader.ring import Channel, ChannelClosed, Ring, Slot
from pipeline.loader.waiting import DeviceWaiting, HostWaiting, Waiting
from pipeline.loader.watchdog import Stalled, Watchdog
from pipeline.shards import ReadMemory, Shards
from pipeline.stats import LoaderClock, LoaderStats, StageClock

# Of a batch's bytes and of its pixels: one is being filled, one waits, one is being used. With
# more, memory only grows.
_NUM_SLOTS = 3
_POLL = 0.5  # seconds that the consumer waits before it asks the watchdog
# Seconds for a thread to end the batch that it has in hand, when the loader closes; and when it
# closes in haste.
_PATIENCE, _SHORT_PATIENCE = 30.0, 2.0


class GaveUp(Exception):
    """The consumer does not want to wait any longer."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """An exception on its way to the caller."""

    stage: str
    step: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class _Encoded:
    epoch: int
    batch: EncodedBatch
    memory: ReadMemory


@dataclass(frozen=True, slots=True)
class _Decoded:
    batch: DecodedBatch
    slot: Slot


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stages:
    """What the threads share. It does not know the loader, so that the loader can be collected."""

    shards: Shards
    decoder: Decoder
    executor: Executor
    batch: Callable[[int], tuple[int, Ids]]
    params: Callable[[int, Ids], ViewParams]
    expected: Callable[[int], Ids]
    steps: range
    memories: Ring[ReadMemory]
    slots: Ring[Slot]
    encoded: Channel[_Encoded | _Failure]
    decoded: Channel[_Decoded | _Failure]
    views: Channel[MultiCropBatch | _Failure]
    clock: LoaderClock
    bad: BadSamples
    device: torch.device

    def run_reading(self) -> None:
        self._run(self.clock.read, self.encoded, self._read)

    def run_decoding(self) -> None:
        self._run(self.clock.decode, self.decoded, self._decode)

    def run_augmenting(self) -> None:
        self._run(self.clock.augment, self.views, self._augment)

    def _run(self, clock: StageClock, output: Channel[Any], make: Callable[[int], Any]) -> None:
        """One thread: a batch for each step, until the end, a failure or the closing."""
        for step in self.steps:
            try:
                if self.device.type == "cuda" and step == self.steps.start:
                    torch.cuda.set_device(self.device)  # a new thread would use GPU 0
                item = make(step)
            except ChannelClosed:
                break
            except BaseException as error:
                # Behind the steps that are done already: they are still good.
                item = _Failure(clock.name, step, error)
            try:
                output.put(item)
            except ChannelClosed:  # nobody waits for it any more
                break
            if isinstance(item, _Failure):
                break
        clock.end()

    def _read(self, step: int) -> _Encoded:
        memory = self.memories.acquire()
        with self.clock.read.working(step):
            epoch, ids = self.batch(step)  # at an epoch's start all its samples are sorted
            self.shards.expect(self.expected(step))
            encoded = read_batch(
                self.shards, self.bad, sample_ids=ids, memory=memory, beat=self.clock.read.beat
            )
        return _Encoded(epoch, encoded, memory)

    def _decode(self, step: int) -> _Decoded | _Failure:
        item = self.encoded.get()
        if isinstance(item, _Failure):
            return item
        slot = self.slots.acquire()
        slot.wait()
        with self.clock.decode.working(step, item.batch.sample_ids):
            batch = decode_batch(
                self.shards, self.decoder, slot, self.bad, encoded=item.batch, epoch=item.epoch
            )
        self.memories.release(item.memory)
        return _Decoded(batch, slot)

    def _augment(self, step: int) -> MultiCropBatch | _Failure:
        item = self.decoded.get()
        if isinstance(item, _Failure):
            return item
        batch = item.batch
        with self.clock.augment.working(step, batch.sample_ids):
            views = self.executor(batch, self.params(batch.epoch, batch.sample_ids))
        item.slot.in_use = views.ready
        self.slots.release(item.slot)
        return views

    def close(self) -> None:
        """Wake and end the threads; what is in flight is dropped."""
        for closable in (self.memories, self.slots, self.encoded, self.decoded, self.views):
            closable.close()


class MultiCropLoader:
    """Iterable once over the views of its steps; a context manager.

    `batch`: (epoch, sample ids) of a step. `params`: of an epoch and ids. `expected`: ids that the
    kernel is asked for just before a step is read.

    Views on a GPU may be used in the stream that is current when they are taken. They are never
    overwritten while a tensor holds them.

    Raises (while iterating):
        TooManyBadSamples: more samples cannot be decoded than `max_bad`.
        Stalled: a stage has not moved for `stall_seconds`; the message names stage and sample.
        RuntimeError: a stage failed; the message names stage and step, the cause is chained.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        decoder: Decoder,
        executor: Executor,
        batch: Callable[[int], tuple[int, Ids]],
        params: Callable[[int, Ids], ViewParams],
        expected: Callable[[int], Ids],
        steps: range,
        clock: LoaderClock,
        prefetch: int,
        max_bad: int,
        stall_seconds: float,
        device: torch.device = CPU,
    ) -> None:
        on_gpu = device.type == "cuda"
        if on_gpu and device.index is None:  # the caller's current one, which threads do not know
            device = torch.device("cuda", torch.cuda.current_device())
        stages = _Stages(
            shards=shards,
            decoder=decoder,
            executor=executor,
            batch=batch,
            params=params,
            expected=expected,
            steps=steps,
            memories=Ring([ReadMemory() for _ in range(_NUM_SLOTS)]),
            slots=Ring([Slot(decoder.device, pinned=on_gpu) for _ in range(_NUM_SLOTS)]),
            encoded=Channel(_NUM_SLOTS),
            decoded=Channel(_NUM_SLOTS),
            views=Channel(prefetch),
            clock=clock,
            bad=BadSamples(shards, budget=max_bad),
            device=device,
        )
        self._stages = stages
        self._watchdog = Watchdog(clock, patience=stall_seconds)
        self._waiting: Waiting = DeviceWaiting(device) if on_gpu else HostWaiting()
        self._images = self._asked = self._filled = 0
        self._patience = _PATIENCE
        self._threads = [
            threading.Thread(target=stages.run_reading, name="reading", daemon=True),
            threading.Thread(target=stages.run_decoding, name="decoding", daemon=True),
            threading.Thread(target=stages.run_augmenting, name="augmenting", daemon=True),
        ]
        self._finalizer = weakref.finalize(self, stages.close)
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._stages.steps)

    def __iter__(self) -> Iterator[MultiCropBatch]:
        return self.batches()

    def batches(self, give_up: Callable[[], bool] = bool) -> Iterator[MultiCropBatch]:
        """Iterate; `give_up` is asked now and then while views are waited for.

        Raises:
            GaveUp: it said yes. Whoever was told to stop should not wait for a disk that hangs.
        """
        for _ in self._stages.steps:
            self._asked += 1
            self._filled += len(self._stages.views)
            with self._waiting.measure():
                batch = self._next(give_up)
                self._waiting.until_ready(batch)
            self._images += len(batch.labels)
            yield replace(batch, ready=None)
        self.close()

    def _next(self, give_up: Callable[[], bool]) -> MultiCropBatch:
        try:
            item = self._watched(give_up)
        except ChannelClosed:
            raise RuntimeError("this loader is closed; make a new one to iterate again") from None
        if not isinstance(item, _Failure):
            return item
        self.close()
        if isinstance(item.error, TooManyBadSamples):
            raise item.error
        raise RuntimeError(
            f"loader stage {item.stage!r} failed at step {item.step}: "
            f"{type(item.error).__name__}: {item.error}"
        ) from item.error

    def _watched(self, give_up: Callable[[], bool]) -> MultiCropBatch | _Failure:
        """Take views, and look every now and then whether any will come, and are still wanted."""
        while True:
            try:
                return self._stages.views.get(timeout=_POLL)
            except TimeoutError:
                try:
                    self._watchdog.check()
                except Stalled:
                    self._patience = 0.0  # a thread that hangs is left behind
                    raise
                if give_up():
                    self._patience = _SHORT_PATIENCE  # it may hang, or only be slow
                    raise GaveUp from None

    @property
    def bad_samples(self) -> list[str]:
        """One line for each sample that could not be decoded and was replaced, up to 20."""
        return bad_lines(self.bad_by_id)

    @property
    def bad_by_id(self) -> dict[int, str]:
        """Name and fault of each such sample, by its id."""
        return self._stages.bad.described()

    def stats(self) -> LoaderStats:
        """Totals since the start."""
        seconds = {stage.name: stage.seconds() for stage in self._stages.clock.stages}
        return LoaderStats(
            images=self._images,
            busy={name: working for name, (working, _) in seconds.items()},
            waiting={name: waiting for name, (_, waiting) in seconds.items()}
            | {"consumer": self._waiting.seconds()},
            places_asked=self._asked * self._stages.views.capacity,
            places_filled=self._filled,
            bad_samples=len(self._stages.bad),
        )

    def close(self) -> None:
        """End the threads and free what they hold. Safe to call twice."""
        self._finalizer()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(self._patience)
        self._stages.decoder.close()
        self._stages.executor.close()

    def __enter__(self) -> MultiCropLoader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
