"""The DALI graph that decodes, on a GPU or a CPU: how it is built, run, and emptied.

One graph has one engine. DALI can share a batch between the hardware engine and CUDA itself
(`hw_decoder_load`), but gives the hardware whichever images come first in the batch: the pixels of
an image would depend on its company. So each engine has a graph of its own, and who decodes what is
decided by sample id (hybrid.py).

Whole images only: nvImageCodec 0.9.0, which DALI 2.4.0 brings, crashes in regions of interest on
H100 and B200.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

ENGINES = ("hardware", "cuda")
_LOAD = {"hardware": 1.0, "cuda": 0.0}  # share of the images that hardware gets, if it knows them
_SMALLEST_BATCH = 16


class DecodeGraph:
    """A DALI pipeline from encoded bytes to images, built for the largest batch so far.

    On a CPU device it is the same graph with DALI's CPU decoder, for which `engine` means nothing.
    """

    def __init__(self, *, device: torch.device, engine: str, threads: int) -> None:
        self._device, self._engine, self._threads = device, engine, threads
        self._pipeline: Any = None
        self._max_batch = 0

    def run(self, jpegs: Sequence[memoryview]) -> Any:
        """Decode a batch; return DALI's list of images, good until the next run.

        Without a stream given, DALI returns when the images are finished.

        Raises:
            RuntimeError: DALI cannot decode one of them; it does not say which.
        """
        if self._pipeline is None or len(jpegs) > self._max_batch:
            # Doubled: the share of a batch varies, and building takes longer than decoding.
            while self._max_batch < len(jpegs):
                self._max_batch = max(_SMALLEST_BATCH, 2 * self._max_batch)
            self._pipeline = self._build()
        try:
            self._pipeline.feed_input("jpegs", [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs])
            (images,) = self._pipeline.run()
        except RuntimeError:
            self._pipeline = None  # DALI: "Current pipeline object is no longer valid"
            raise
        return images

    def close(self) -> None:
        """Drop the pipeline, its threads and its memory."""
        self._pipeline = None

    def _build(self) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        on_gpu = self._device.type == "cuda"

        # prefetch_queue_depth 1: the ring is the queue, a second one would only hold batches back.
        @pipeline_def(
            batch_size=self._max_batch,
            num_threads=self._threads,
            device_id=device_index(self._device) if on_gpu else None,
            prefetch_queue_depth=1,
        )
        def decode() -> Any:
            jpegs = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1)
            return fn.decoders.image(
                jpegs,
                device="mixed" if on_gpu else "cpu",
                output_type=types.RGB,
                hw_decoder_load=_LOAD[self._engine],
                jpeg_fancy_upsampling=True,  # as libjpeg-turbo interpolates chroma
                adjust_orientation=False,  # libjpeg-turbo turns nothing, and the index says so
                affine=False,  # else the threads of all processes share the first cores
            )

        pipeline = decode()
        pipeline.build()
        return pipeline


def copy_out(images: Any, target: Tensor, stream: int | None) -> None:
    """Copy DALI's images one after another into `target`, uint8 [bytes of all].

    On a GPU it is one launch, queued on `stream`; DALI's memory must stay until it is done.
    """
    address = ctypes.c_void_p(target.data_ptr())
    if stream is None:
        images.copy_to_external(address)
    else:
        images.copy_to_external(
            address, ctypes.c_void_p(stream), non_blocking=True, use_copy_kernel=True
        )


def device_index(device: torch.device) -> int:
    """The number of a CUDA device; of "cuda" alone, that of the current one."""
    return torch.cuda.current_device() if device.index is None else device.index


def why_refused(error: Exception) -> str:
    """The line of DALI's long message that says what is wrong; of others, the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    encountered = [i for i, line in enumerate(lines) if line.startswith("encountered")]
    found = lines[encountered[-1] + 1 :] if encountered else lines
    return (found or [type(error).__name__])[0][:200]


def codec_version() -> str:
    """The version of nvImageCodec, which decodes for DALI: "0.9.0"."""
    from nvidia.dali import backend

    number: int = backend.GetNvimgcodecVersion()  # type: ignore[attr-defined]
    return f"{number // 1000}.{number // 100 % 10}.{number % 100}"
