"""Training and bench under the stub CUDA runtime: `python -m tests.rehearsal.play PART FOLDER`.

Whatever torch cannot do without a driver has a stand-in, made when this module is imported, so that
processes which a part starts have it too: convolutions and Triton's kernels, which only mark what
they read and write, and the comparison of views with the CPU's, which would see that none were
made. Everything else is the program's and torch's own.
"""

from __future__ import annotations

import ctypes
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

import train
import training.launch
import training.monitor
import training.saving
import training.trust
from bench.certificate.command import certificate_command
from bench.generated import generated_samples, write_shards
from bench.ladder import LadderRequest, ladder
from model.guard import Guard
from model.reduction import _Sums
from model.snapshot import HostCopy, Snapshot
from pipeline.augment import fused_kernels
from pipeline.augment.fused_upload import Upload
from pipeline.augment.recycled import _Block
from pipeline.loader.ring import Slot
from pipeline.loader.waiting import DeviceWaiting
from tests.rehearsal.fake import plan_of, views_of
from tests.rehearsal.order import Call, calls, faults_of
from training.claim import claimed
from training.config import apply_settings
from training.launch import World
from training.presets import load_preset
from training.runlog import RunLog

DEVICE = 3  # none that a thread gets by itself
FEW = 16  # images of a step whose launches are counted
# Of a step of ResNet-50 with six views; one process, and eight.
BUDGET = {1: (9000, 0), 8: (8000, 300)}
SMALL = (
    "large_size=32 small_size=16 model.encoder.width=0.125 hidden_size=16 embedding_size=8 "
    "num_negatives=3 warmup_epochs=1 threads=2 epochs=4 log_every=3 checkpoint_every=4 "
    "global_batch_size=16"
)

_stub = ctypes.CDLL(None)
_stub.stub_log.argtypes = [ctypes.c_char_p, *[ctypes.c_void_p] * 3, ctypes.c_long]


def mark(what: str, at: int = 0, size: int = 0, *, stream: int = 0, read: bool = False) -> None:
    """Write a line into the log: what is written at `at`, or read there."""
    _stub.stub_log(what.encode(), stream, 0 if read else at, at if read else 0, size)


class Kernel:
    """In place of a Triton kernel: marks the pixels that it reads and the views that it writes."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            tensors = [a for a in arguments if isinstance(a, Tensor)]
            device = torch.device("cuda", torch.cuda.current_device())
            assert {tensor.device for tensor in tensors} == {device}
            stream = torch.cuda.current_stream().cuda_stream
            for tensor in tensors:
                if tensor.dtype == torch.uint8:
                    mark("kernel", tensor.data_ptr(), tensor.nbytes, stream=stream, read=True)
                elif tensor.ndim == 5:
                    mark("kernel", tensor.data_ptr(), tensor.nbytes, stream=stream)

        return launch


def convolution(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, *_: Any) -> Tensor:
    """One launch, and room for the result."""
    sides = [
        (side + 2 * p - k) // s + 1
        for side, p, k, s in zip(x.shape[2:], padding, weight.shape[2:], stride, strict=True)
    ]
    room = x.new_empty(len(x), len(weight), *sides)
    return room.contiguous(memory_format=torch.channels_last).zero_()


def convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *others: Any) -> Any:
    """One launch for each of the gradients that are wanted."""
    to_x, to_weight, to_bias = others[-1]
    assert gradient.device == x.device == weight.device
    assert gradient.dtype == x.dtype == weight.dtype
    return (
        torch.empty_like(x).zero_() if to_x else None,
        torch.empty_like(weight).zero_() if to_weight else None,
        weight.new_zeros(len(weight)) if to_bias else None,
    )


_operators = torch.library.Library("aten", "IMPL")
_operators.impl("convolution", convolution, "CUDA")
_operators.impl("convolution_backward", convolution_backward, "CUDA")
torch.backends.cudnn.enabled = False
training.trust.in_child = lambda *_, **__: ("", "")
for _name in ("add_levels", "resample", "recolor", "blur"):
    setattr(fused_kernels, _name, Kernel())


@contextmanager
def marked() -> Iterator[None]:
    """Mark steps, what the host may wait for, who reads gradients, and pinned memory."""

    def step(original: Any, model: Any, optimizer: Any, batch: Any, *others: Any) -> Any:
        mark("STEP_BEGIN")
        for views in (batch.large, batch.small):
            mark("VIEW", views.data_ptr(), views.nbytes)
        terms = original(model, optimizer, batch, *others)
        mark("STEP_END")
        return terms

    def aside(original: Any, *arguments: Any) -> Any:
        mark("ASIDE_BEGIN")
        result = original(*arguments)
        mark("ASIDE_END")
        return result

    def lay_out(original: Any, *arguments: Any) -> Any:
        images, masks = original(*arguments)
        mark("HOST_WRITE", images.pixels.data_ptr(), images.pixels.nbytes)
        return images, masks

    def room(original: Any, *arguments: Any) -> Any:
        found = original(*arguments)
        mark("HOST_WRITE", found.packed.data_ptr(), found.packed.nbytes)
        return found

    def fresh(original: Any, *arguments: Any, **others: Any) -> Tensor:
        tensor: Tensor = original(*arguments, **others)
        mark("FRESH", tensor.data_ptr(), tensor.nbytes)
        return tensor

    def block(original: Any, self: _Block, *arguments: Any, **others: Any) -> None:
        original(self, *arguments, **others)
        mark("FRESH", self._memory.data_ptr(), self.size)

    def update(original: Any, guard: Guard, *others: Any) -> Any:
        stream = torch.cuda.current_stream().cuda_stream
        for bucket in guard.gradients._buckets:
            mark("kernel", bucket.flat.data_ptr(), bucket.flat.nbytes, stream=stream, read=True)
        return original(guard, *others)

    def saved(_: Any, state: Any) -> str:
        for tensor in state["model"].values():
            mark("HOST_READ", tensor.data_ptr(), tensor.nbytes)
        return ""  # what no kernel has written may be anything

    with ExitStack() as stack:
        for owner, name, around in (
            (train, "train_step", step),
            (train, "record", aside),
            (train, "barrier", aside),
            (RunLog, "show_views", aside),
            (Guard, "update", update),
            (train.checkpoint, "export_encoder", aside),
            (training.monitor.KnnMonitor, "measure", aside),
            (Slot, "lay_out", lay_out),
            (Slot, "_empty", fresh),
            (Upload, "_next_room", room),
            (Upload, "_host", fresh),
            (HostCopy, "_place", fresh),
            (_Block, "__init__", block),
            (training.saving, "first_not_finite", saved),
        ):
            stack.enter_context(_around(owner, name, around))
        yield


def _around(owner: Any, name: str, around: Callable[..., Any]) -> Any:
    original = getattr(owner, name)
    return mock.patch.object(owner, name, lambda *a, **k: around(original, *a, **k))


def played(size: int, folder: Path, name: str, *settings: str) -> list[Call]:
    """Train on one of `size` GPUs until the end; return the calls of it."""
    device = torch.device("cuda", DEVICE)
    config = apply_settings(load_preset("demo"), [*SMALL.split(), *settings])
    config = replace(config, loader=config.loader.for_device(device))
    world = World(size=size, local_rank=DEVICE, local_size=DEVICE + 1, device=device)
    start = len(_log())
    with claimed(folder / name) as claim:
        assert train.train(world, config, folder / "shards", folder / name, claim) == 0
    mark("RUN_END")
    return list(calls(_log()[start:]))


def _log() -> list[str]:
    _stub.fflush(None)
    return Path(f"{os.environ['STUB_LOG']}.{os.getpid()}").read_text("ascii").splitlines()


@contextmanager
def _asks() -> Iterator[None]:
    def draws(original: Any, batch: Any, *others: Any) -> Any:
        assert batch.large.sum().item() is not None
        return original(batch, *others)

    with _around(train, "draw_negatives", draws):
        yield


@contextmanager
def _packs_without_waiting() -> Iterator[None]:
    def room(original: Any, upload: Any, size: int) -> Any:
        upload._rooms[1].read = None
        return original(upload, size)

    with _around(Upload, "_next_room", room):
        yield


@contextmanager
def _sums_without_waiting() -> Iterator[None]:
    def finish(_: Any, sums: _Sums) -> None:
        while len(sums._started) < len(sums._buckets):
            sums._start()

    with _around(_Sums, "finish", finish):
        yield


# what is planted -> (kind of fault that it must be seen as, how)
PLANTED: dict[str, tuple[str, Callable[[], Any]]] = {
    "a value that the host asks for": ("the host waits", _asks),
    "negatives that are not pinned": (
        "pageable copy",
        lambda: mock.patch.object(Tensor, "pin_memory", lambda self: self),
    ),
    "a step before its views": (
        "race",
        lambda: mock.patch.object(DeviceWaiting, "until_ready", return_value=None),
    ),
    "views in memory that a step still reads": (
        "race",
        lambda: mock.patch.object(_Block, "wait", return_value=None),
    ),
    "pixels decoded over those that are being copied": (
        "race",
        lambda: mock.patch.object(Slot, "wait", return_value=None),
    ),
    "arrays packed over those that are being copied": ("race", _packs_without_waiting),
    "a checkpoint written before it is copied": (
        "race",
        lambda: mock.patch.object(Snapshot, "wait", return_value=None),
    ),
    "threads without their device": (
        "context on a foreign device",
        lambda: mock.patch.object(torch.cuda, "set_device", return_value=None),
    ),
}

PLANTED_AMONG_SEVERAL = {
    "gradients that are used before they are summed": ("race", _sums_without_waiting)
}


def runs(folder: Path, size: int) -> None:
    """A run, its resumption, and runs with planted faults."""
    torch.cuda.set_device(DEVICE)
    write_shards(folder / "shards", "dali", generated_samples(64, height=60, width=80))
    if size > 1:
        _alone_among(size)
    with marked():
        for begin in ("from the beginning", "from step 8"):
            log = played(size, folder, "run", "max_steps=12", "monitor_every=1")
            faults, compared = faults_of(log, device=DEVICE)
            assert not faults.times, faults
            assert compared > 1000, f"only {compared} accesses were compared"
            said(f"{size} process(es), {begin}: well, {compared} accesses in order")
            (folder / "run/checkpoint-00000012.pt").unlink()
            (folder / "run/encoder.pt").unlink()
        for fault, (kind, plant) in (PLANTED if size == 1 else PLANTED_AMONG_SEVERAL).items():
            with plant():
                log = played(size, folder, fault, "max_steps=12", "monitor_every=0")
            faults, _ = faults_of(log, device=DEVICE)
            assert set(faults.times) == {kind}, f"{fault}: {faults or 'nothing was found'}"
            said(f"found as planted: {fault}")


def _alone_among(size: int) -> None:
    """Be rank 0 of several of which the others are imagined: NCCL's stub waits for nobody."""
    device = torch.device("cuda", DEVICE)
    dist.init_process_group(
        "nccl", store=dist.HashStore(), rank=0, world_size=size, device_id=device
    )
    training.launch.StopRequest.agreed = lambda self: 0
    training.launch.dist.new_group = lambda **_: None


def figures(size: int) -> None:
    """What a step of ResNet-50 takes of the host, in one process of `size`."""
    torch.cuda.set_device(DEVICE)
    if size > 1:
        _alone_among(size)
    world = World(size=size, device=torch.device("cuda", DEVICE))
    config = load_preset("imagenet-rn50")
    config = replace(config, global_batch_size=FEW * size)
    with mock.patch("model.resnet.draw_weights"), mock.patch("model.heads.draw_weights"):
        model, optimizer = train.build(config, world)
    guard = Guard(model, remembered=4)
    batch, plan = views_of(config, world.device, FEW), plan_of(FEW * size)

    def step(number: int) -> float:
        began = time.perf_counter()
        train.train_step(model, optimizer, batch, config, plan, number, world, guard)
        return time.perf_counter() - began

    step(0)
    seconds = min(step(number) for number in range(1, 6))
    found = counted(lambda: step(6))
    said(
        f"a step of ResNet-50 in one of {size}: {found[0]} launches, {found[1]} NCCL calls, "
        f"{1e3 * seconds:.0f} ms of the host"
    )
    assert not over(found, size), over(found, size)
    with _around(train, "draw_negatives", _busy):
        assert over(counted(lambda: step(7)), size)
    said("found as planted: a thousand launches more")


def _busy(original: Any, batch: Any, *others: Any) -> Any:
    for _ in range(1000):
        batch.large[0, 0, 0, 0, 0].add_(1)
    return original(batch, *others)


def counted(work: Callable[[], object]) -> tuple[int, int]:
    """Return the launches and the collectives of some work."""
    start = len(_log())
    work()
    what = [call.what for call in calls(_log()[start:])]
    return sum(w in ("kernel", "memset") for w in what), sum(w.startswith("nccl") for w in what)


def over(found: tuple[int, int], size: int) -> str:
    """Return by how much a step is over its budget, or ""."""
    names = ("launches", "NCCL calls")
    return "; ".join(
        f"{value} {name}, and {bound} are allowed"
        for value, bound, name in zip(found, BUDGET[size], names, strict=True)
        if value > bound
    )


def measure(folder: Path) -> None:
    """The ladder and the certificate, to their last figures."""
    write_shards(folder / "shards", "dali", generated_samples(64, height=60, width=80))
    config = apply_settings(load_preset("demo"), SMALL.split())
    request = LadderRequest(
        config=config, device="cuda", rounds=1, threads=2, data=folder / "shards", batch=16
    )
    skipped = [row for row in ladder(request)["rows"] if "skipped" in row]
    assert not skipped, skipped
    said("the ladder: all rungs")
    settings = [word for pair in SMALL.split() for word in ("--set", pair)]
    with suppress(SystemExit), redirect_stdout(io.StringIO()):  # figures of nothing, bars missed
        certificate_command(
            [
                *("--data", str(folder / "shards"), "--out", str(folder / "certificate")),
                *("--preset", "demo", "--gpus", "1", "--steps", "8"),
                *settings,
            ],
            standalone_mode=False,
        )
    assert (folder / "certificate/certificate.json").exists()
    said("the certificate: written")


def said(line: str) -> None:
    print(line, flush=True)


PARTS: dict[str, Callable[[Path], None]] = {
    "one": lambda folder: runs(folder, 1),
    "two": lambda folder: runs(folder, 2),
    "step": lambda folder: figures(1),
    "step-of-eight": lambda folder: figures(8),
    "bench": measure,
}

if __name__ == "__main__":
    PARTS[sys.argv[1]](Path(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # threads of a process group whose others are imagined would wait for them
