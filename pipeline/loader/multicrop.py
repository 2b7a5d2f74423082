"""MultiCropLoader: two threads that run ahead of the step, and the iterator that meets them.

 decoding thread   ids -> EncodedBatch -> DecodedBatch in a free slot of the ring
 augmenting thread params of those ids, executor -> MultiCropBatch, slot back to the ring
 the caller        takes views, in the order of the steps

An exception in a thread is raised in the caller, with its stage and step. close(), an early
`break` inside `with`, or garbage collection end both threads; nothing waits for ever.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pipeline.augment import Executor
from pipeline.augment.params import ViewParams
from pipeline.batch import DecodedBatch, Ids, MultiCropBatch
from pipeline.loader.decode import (
    BadSamples,
    Decoder,
    TooManyBadSamples,
    bad_lines,
    decode_batch,
)
from pipeline.loader.ring import Channel, ChannelClosed, Ring, Slot
from pipeline.shards import Shards
from pipeline.stats import Clock, LoaderStats

# One slot is being decoded into, one waits, one is being augmented: with more, memory only grows.
_NUM_SLOTS = 3


@dataclass(frozen=True, slots=True)
class _Failure:
    """An exception on its way to the caller."""

    stage: str
    step: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class _Decoded:
    step: int
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
    steps: range
    ring: Ring
    decoded: Channel[_Decoded | _Failure]
    views: Channel[MultiCropBatch | _Failure]
    clock: Clock
    bad: BadSamples

    def run_decoding(self) -> None:
        for step in self.steps:
            try:
                with self.clock.measure("decode waiting"):
                    slot = self.ring.acquire()
                with self.clock.measure("decode"):
                    epoch, ids = self.batch(step)
                    decoded = decode_batch(
                        self.shards, self.decoder, slot, self.bad, sample_ids=ids, epoch=epoch
                    )
                self.decoded.put(_Decoded(step, decoded, slot))
            except ChannelClosed:
                return
            except BaseException as error:
                # Behind the steps that are decoded already: they are still good.
                _hand_over(self.decoded, _Failure("decode", step, error))
                return

    def run_augmenting(self) -> None:
        for step in self.steps:
            try:
                with self.clock.measure("augment waiting"):
                    item = self.decoded.get()
                if isinstance(item, _Failure):
                    _hand_over(self.views, item)
                    return
                with self.clock.measure("augment"):
                    batch = item.batch
                    views = self.executor(batch, self.params(batch.epoch, batch.sample_ids))
                self.ring.release(item.slot)
                with self.clock.measure("augment waiting"):
                    self.views.put(views)
            except ChannelClosed:
                return
            except BaseException as error:
                _hand_over(self.views, _Failure("augment", step, error))
                return

    def close(self) -> None:
        """Wake and end the threads; what is in flight is dropped."""
        self.ring.close()
        self.decoded.close()
        self.views.close()


def _hand_over(channel: Channel[Any], failure: _Failure) -> None:
    with suppress(ChannelClosed):  # nobody waits for it any more
        channel.put(failure)


class MultiCropLoader:
    """Iterable once over the views of its steps; a context manager.

    Raises (while iterating):
        TooManyBadSamples: more samples cannot be decoded than `max_bad`.
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
        steps: range,
        prefetch: int,
        max_bad: int,
    ) -> None:
        stages = _Stages(
            shards=shards,
            decoder=decoder,
            executor=executor,
            batch=batch,
            params=params,
            steps=steps,
            ring=Ring(_NUM_SLOTS),
            decoded=Channel(_NUM_SLOTS),
            views=Channel(prefetch),
            clock=Clock(),
            bad=BadSamples(shards, budget=max_bad),
        )
        self._stages = stages
        self._images = self._asked = self._filled = 0
        self._threads = [
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
        for _ in self._stages.steps:
            self._asked += 1
            self._filled += len(self._stages.views)
            with self._stages.clock.measure("consumer waiting"):
                item = self._next()
            self._images += len(item.labels)
            yield item
        self.close()

    def _next(self) -> MultiCropBatch:
        try:
            item = self._stages.views.get()
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
        seconds = self._stages.clock.seconds()
        return LoaderStats(
            images=self._images,
            busy={name: s for name, s in seconds.items() if not name.endswith(" waiting")},
            waiting={
                name.removesuffix(" waiting"): s
                for name, s in seconds.items()
                if name.endswith(" waiting")
            },
            places_asked=self._asked * self._stages.views.capacity,
            places_filled=self._filled,
            bad_samples=len(self._stages.bad),
        )

    def close(self) -> None:
        """End the threads and free what they hold. Safe to call twice."""
        self._finalizer()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
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
