"""The self-test of GPU decoders at the start of a run, and how fast they are.

A few images of the data set go through each engine twice, beside other work on the GPU, and are
compared with libjpeg-turbo; then the engine is timed. All of it happens in a process of its own: a
decoder that crashes or hangs is an engine that failed, not a run that died, and the GPU's memory is
free again afterwards.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
import torch

from pipeline.batch import EncodedBatch, Ids
from pipeline.loader.checked import decode_exactly, unlike
from pipeline.loader.dali_gpu_graph import why_refused
from pipeline.loader.decode import Decoder
from pipeline.loader.ragged import room_for, some_encoded
from pipeline.loader.trial_samples import TrialSamples

_TESTED = 16  # images that are compared
_ROUNDS = 2
_TIMED_SECONDS = 0.5
_PATIENCE = 60.0  # seconds for one engine, the start of its process included
_STALE = 0x55  # what buffers hold before they are decoded into


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What came out for one engine."""

    engine: str
    images_per_second: float = 0.0
    fault: str = ""  # why it must not be used; "" if it passed


class OtherWork(Protocol):
    """Work that a decoder must not disturb."""

    def start(self) -> object:
        """Begin, and go on while the decoder works."""
        ...

    def fault(self) -> str:
        """Wait for the end; say what was disturbed, or ''."""
        ...


class NoOtherWork:
    """For decoders on the CPU."""

    def start(self) -> None:
        """Nothing begins."""

    def fault(self) -> str:
        return ""


class CudaWork:
    """Counts in memory of its own on another stream; a stray write shows in the counts.

    4 x 64 MB, 2,000 launches: on a GPU with 3 TB/s some 80 ms, longer than the images take.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        with torch.cuda.stream(self._stream):
            self._cells = [torch.zeros(1 << 24, dtype=torch.int32, device=device) for _ in range(4)]
        self._count = 0

    def start(self) -> None:
        with torch.cuda.stream(self._stream):
            for _ in range(500):
                for cell in self._cells:
                    cell.add_(1)
        self._count += 500

    def fault(self) -> str:
        with torch.cuda.stream(self._stream):
            whole = all(bool((cell == self._count).all()) for cell in self._cells)
        return "" if whole else "it wrote into memory of another stream"


# ------------------------------------------------------------------------------------------------
# One engine
# ------------------------------------------------------------------------------------------------


def try_engine(
    engine: str, decoder: Decoder, samples: TrialSamples, other: OtherWork, device: torch.device
) -> Trial:
    """Test and time a decoder that writes to `device`; it is closed afterwards."""
    try:
        fault = ""
        for number in range(_ROUNDS):
            # In another order the second time: what is left over from before is in a wrong place.
            rows = np.arange(min(_TESTED, len(samples)))[:: 1 - 2 * (number % 2)]
            fault = fault or _test(decoder, samples, rows, other, device)
        speed = 0.0 if fault else measure(decoder, samples.encoded(), device)
    except Exception as error:
        return Trial(engine=engine, fault=why_refused(error))
    finally:
        decoder.close()
    return Trial(engine=engine, images_per_second=speed, fault=fault)


def _test(
    decoder: Decoder,
    samples: TrialSamples,
    rows: Ids,
    other: OtherWork,
    device: torch.device,
) -> str:
    encoded = some_encoded(samples.encoded(), rows)
    images = room_for(encoded, device)
    images.pixels.fill_(_STALE)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # the decoder writes on another stream
    other.start()
    failures = decoder.decode(encoded, images)
    disturbed = other.fault()
    for row in range(len(rows)):
        expected, reason = decode_exactly(encoded, images, row)
        assert not reason, reason  # such samples are no test, they were left out
        found = failures.get(row) or unlike(images.image(row), expected)
        if found:
            return f"on {samples.names[rows[row]]}, {found}"
    return disturbed


def measure(
    decoder: Decoder,
    encoded: EncodedBatch,
    device: torch.device,
    seconds: float = _TIMED_SECONDS,
) -> float:
    """Images that it decodes a second, by whole batches over `seconds`, after one to warm up."""
    images = room_for(encoded, device)
    decoder.decode(encoded, images)
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        decoder.decode(encoded, images)
        done += len(encoded.jpegs)
    return done / spent


# ------------------------------------------------------------------------------------------------
# All engines, in a process of their own
# ------------------------------------------------------------------------------------------------

Attempt = Callable[[str, TrialSamples], Trial]


def try_engines(
    engines: Sequence[str],
    attempt: Attempt,
    samples: TrialSamples,
    *,
    patience: float = _PATIENCE,
) -> list[Trial]:
    """Try engines one after another in a child; in another child those behind one that died.

    `attempt` is a function that a new process can import, or a partial of one.
    """
    trials: list[Trial] = []
    while len(trials) < len(engines):
        rest = engines[len(trials) :]
        trials += _in_child(rest, attempt, samples, patience)
    return trials


def _in_child(
    engines: Sequence[str], attempt: Attempt, samples: TrialSamples, patience: float
) -> list[Trial]:
    """The trials of the engines up to the first that kills or stops the child."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_serve, args=(theirs, engines, attempt, samples), daemon=True)
    child.start()
    theirs.close()
    trials: list[Trial] = []
    try:
        for engine in engines:
            if not ours.poll(patience):
                fault = f"it did not end within {patience:.0f} s"
                return [*trials, Trial(engine=engine, fault=fault)]
            try:
                trials.append(ours.recv())
            except EOFError:
                child.join()
                return [*trials, Trial(engine=engine, fault=_how_it_ended(child.exitcode))]
        return trials
    finally:
        ours.close()
        child.kill()
        child.join()


def _serve(
    results: Connection, engines: Sequence[str], attempt: Attempt, samples: TrialSamples
) -> None:
    for engine in engines:
        try:
            results.send(attempt(engine, samples))
        except Exception as error:
            results.send(Trial(engine=engine, fault=why_refused(error)))


def _how_it_ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"its process was killed by signal {-status}"
    return f"its process ended with status {status}"
