"""Rung `augment` on a GPU: our fused kernels beside kornia and DALI, timed by CUDA events.

Pixels lie on the GPU before the clock starts, for all but the rows that say "upload". Our params
are drawn and uploaded with the pixels, as the loader's threads do it beside training; kornia and
DALI draw theirs inside their calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench.augment import (
    AugmentRequest,
    chosen,
    load_pictures,
    params_of,
    peer,
    report,
)
from bench.harness import (
    Built,
    Candidate,
    Measured,
    Work,
    anywhere,
    measure,
    repeated,
)
from bench.pictures import Pictures, bytes_to_move
from bench.rows import named, quantiles, ratios_of, row
from pipeline.augment.recipe import MultiCropRecipe

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LAUNCHES = 2_000  # of the check that memory does not grow
_FUSED_TURNS, _UPLOAD_TURNS, _DALI_TURNS, _KORNIA_TURNS = 50, 5, 10, 2  # batches a round
_COPY_BYTES = 2**30


def augment_cuda(request: AugmentRequest, recipe: MultiCropRecipe) -> dict[str, Any]:
    """Measure, and return the JSON object of this rung.

    Raises:
        ValueError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("no CUDA device on this machine")
    pictures = load_pictures(request)
    launches: dict[str, Work] = {}
    candidates = chosen(request, cuda_candidates(pictures, recipe, launches))
    roof = copy_bandwidth()
    measured = measure(candidates, rounds=request.rounds, stopwatch=cuda_seconds, placed=anywhere)
    return report(
        request,
        pictures,
        recipe,
        rows=[_row(each, roof, launches) for each in measured],
        ratios=cuda_ratios(measured),
        roofs={torch.cuda.get_device_name(): roof},
    )


def cuda_candidates(
    pictures: Pictures, recipe: MultiCropRecipe, launches: dict[str, Work]
) -> list[Candidate]:
    """All rows of a GPU; `launches` receives the launch of each row whose memory is watched."""
    device = torch.device("cuda", torch.cuda.current_device())
    rows = []
    for name, dtype in DTYPES.items():
        ours = partial(_ours, pictures, recipe, device, dtype, launches)
        rows += [
            ours(f"fused ({name})", _launch, _FUSED_TURNS, "launched kernel by kernel"),
            ours(f"fused ({name}) graph", _replay, _FUSED_TURNS, "replayed as a CUDA graph"),
        ]
        if dtype == torch.bfloat16:
            note = "with params drawn, pixels and params uploaded, room allocated each time"
            rows.append(ours(f"fused ({name}) upload", _upload, _UPLOAD_TURNS, note))
    peers = (
        ("kornia", "kornia_batched", _KORNIA_TURNS, {"device": device, "stopwatch": cuda_seconds}),
        ("DALI stock", "dali_stock", _DALI_TURNS, {"threads": 4, "device_id": device.index}),
    )
    for name, file, turns, arguments in peers:
        rows.append(repeated(peer(name, file, "make", pictures, recipe, **arguments), turns))
    return rows


def _ours(
    pictures: Pictures,
    recipe: MultiCropRecipe,
    device: torch.device,
    dtype: torch.dtype,
    launches: dict[str, Work],
    name: str,
    make: Callable[[Any, Pictures, MultiCropRecipe], Work],
    turns: int,
    how: str,
) -> Candidate:
    def build() -> Built:
        from pipeline.augment.fused import FusedViews

        run = make(FusedViews(recipe, device=device, dtype=dtype), pictures, recipe)
        if make is _launch:  # a graph cannot allocate, an upload is meant to
            launches[name] = run
        return Built(run=run)

    one = Candidate(
        name=name,
        what=f"fused executor, {dtype} out, masks on, {how}",
        build=build,
        images=len(pictures),
        bytes_per_image=bytes_to_move(pictures, recipe, element_size=dtype.itemsize),
    )
    return repeated(one, turns)


def _launch(views: Any, pictures: Pictures, recipe: MultiCropRecipe) -> Work:
    work = views.prepare(pictures.decoded, params_of(pictures, recipe, 0))
    return lambda: views.launch(work)


def _replay(views: Any, pictures: Pictures, recipe: MultiCropRecipe) -> Work:
    launch = _launch(views, pictures, recipe)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # a capture must meet compiled kernels
        for _ in range(3):
            launch()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()

    def replay(kept: Work = launch) -> None:  # `kept`: the graph writes into its memory
        graph.replay()

    return replay


def _upload(views: Any, pictures: Pictures, recipe: MultiCropRecipe) -> Work:
    epochs = itertools.count()

    def run() -> None:
        params = params_of(pictures, recipe, next(epochs))
        views.launch(views.prepare(pictures.decoded, params))

    return run


def cuda_seconds(work: Work) -> float:
    """Between two events on the current stream; a peer with other streams synchronises itself."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def copy_bandwidth(repeats: int = 20) -> float:
    """Bytes per second, read and written, of the fastest of some large copies on the GPU."""
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * _COPY_BYTES / min(cuda_seconds(lambda: target.copy_(source)) for _ in range(repeats))


def _row(measured: Measured, roof: float, launches: dict[str, Work]) -> dict[str, Any]:
    result = row(measured, roof)
    if "skipped" in result:
        return result
    result["microseconds_per_image"] = quantiles([1e6 * s for s in measured.seconds])
    name = measured.candidate.name
    if name in launches:
        result["memory"] = memory_over(launches[name])
    return result


def memory_over(launch: Work) -> dict[str, Any]:
    """Bytes of the caching allocator before and after many launches."""
    launch()
    before = _memory()
    for _ in range(LAUNCHES):
        launch()
    return {"launches": LAUNCHES, "before": before, "after": _memory()}


def _memory() -> dict[str, int]:
    torch.cuda.synchronize()
    return {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
    }


def cuda_ratios(measured: list[Measured]) -> dict[str, float]:
    """Ours, in both forms of output, against each peer; what a graph and bf16 bring."""
    pairs = {}
    for dtype in DTYPES:
        for form in (f"fused ({dtype})", f"fused ({dtype}) graph"):
            for other in ("kornia", "DALI stock"):
                pairs[f"{form}/{other}"] = (named(measured, form), named(measured, other))
        launched = named(measured, f"fused ({dtype})")
        graph = named(measured, f"fused ({dtype}) graph")
        pairs[f"fused ({dtype}) graph/fused ({dtype})"] = (graph, launched)
    return ratios_of(pairs)
