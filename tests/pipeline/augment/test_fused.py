"""What is the fused executor's own: its table, memory, compilation, and life on a GPU."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.step.inside import sync_debug_mode
from pipeline.augment import choose_executor, make_executor
from pipeline.augment.agreement import levels
from pipeline.augment.params import JITTER_ORDERS, MEAN
from pipeline.augment.recipe import LARGE_EVEN, MultiCropRecipe
from pipeline.augment.reference import color_levels
from tests.pipeline.augment.test_executors_agree import (
    BUSY,
    assert_equal_to_reference,
    batch_of,
    drawn,
)
from tests.support import finished

pytest.importorskip("triton")
fused = pytest.importorskip("pipeline.augment.fused")
fused_table = pytest.importorskip("pipeline.augment.fused_table")

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_the_table_holds_the_params():
    decoded = batch_of([(40, 50), (60, 30), (9, 9), (8, 8)])
    params = drawn(replace(BUSY, mask_fill="other-image"), decoded, seed=3)
    table, word = fused_table.params_table(params), fused_table.Word
    assert table.shape == (4, 3, len(word))
    floats = table.view(np.float32)
    for name in ("brightness", "contrast", "saturation", "hue", "blur_sigma"):
        column = word["SIGMA" if name == "blur_sigma" else name.upper()]
        assert np.array_equal(floats[..., column], getattr(params, name))
    for name in ("flip", "solarize", "mask"):
        assert np.array_equal(table[..., word[name.upper()]], getattr(params, name))
    assert np.array_equal(table[..., word.SOURCE], params.mask_source)
    for b, v in np.ndindex(4, 3):
        order = JITTER_ORDERS[params.jitter_order[b, v]]
        bits = table[b, v, word.ORDER]
        assert tuple(bits >> 2 * k & 3 for k in range(4)) == order
        split = order.index(1) if params.contrast[b, v] != 1 else 4
        assert table[b, v, word.SPLIT] == split
        channels = [table[b, v, word.COLOR] >> 8 * c & 255 for c in range(3)]
        assert channels == color_levels(params.mask_color[b, v]).tolist()


def test_the_tile_changes_no_pixel():
    recipe = replace(BUSY, num_small=0, num_large=1)
    decoded = batch_of([(97, 61), (50, 80)])
    params = drawn(recipe, decoded, seed=1)
    tiles = [
        finished(fused.FusedViews(recipe, device=DEVICE, crop_tile=tile)(decoded, params)).large
        for tile in (fused.CROP_TILE, (64, 64))
    ]
    # only the order in which the means of contrast are added up
    assert (levels(tiles[0], recipe) - levels(tiles[1], recipe)).abs().max() < 0.01


@pytest.mark.parametrize("size", [31, 40])
def test_wide_blurs_take_as_many_blocks_as_they_need(size):
    # A radius of 31 pixels is three blocks of 32 wide, unrolled; one of 40 four, in a loop.
    view = replace(LARGE_EVEN, blur_divider=0.5, blur_sigma=(9.0, 30.0))
    recipe = replace(BUSY, num_small=0, num_large=1, large_size=size, large_even=view)
    decoded = batch_of([(97, 61)])
    assert_equal_to_reference("fused", recipe, decoded, drawn(recipe, decoded, seed=2))


def test_views_are_channels_last_and_of_the_wanted_type():
    decoded = batch_of([(30, 40), (40, 30)])
    params = drawn(BUSY, decoded, seed=1)
    full, half = (
        finished(
            fused.FusedViews(BUSY, device=DEVICE, dtype=dtype, crop_tile=(64, 64))(decoded, params)
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    for views in (full.large[1], full.small[0], half.large[0]):
        assert views.is_contiguous(memory_format=torch.channels_last)
    assert half.large.dtype == half.small.dtype == torch.bfloat16
    # 8 bits of mantissa; Triton's interpreter cuts the others off, a GPU rounds
    bound = 2**-7 if DEVICE == CPU else 2**-8
    assert ((half.large.float() - full.large).abs() <= bound * full.large.abs()).all()
    assert ((half.small.float() - full.small).abs() <= bound * full.small.abs()).all()


def test_images_that_end_with_the_buffer_are_read_to_their_last_byte():
    # One image fills the buffer: words at both ends reach into the margins, none beyond them.
    recipe = replace(BUSY, num_small=0, num_large=1)
    for sizes in ([(1, 1)], [(1, 2)], [(5, 3), (1, 1)]):
        decoded = batch_of(sizes)
        executor = fused.FusedViews(recipe, device=DEVICE, crop_tile=(64, 64))
        assert finished(executor(decoded, drawn(recipe, decoded))).large.isfinite().all()


def test_an_image_beyond_32_bits_is_refused():
    decoded = batch_of([(4, 4)])
    huge = replace(
        decoded, images=replace(decoded.images, heights=torch.tensor([40000], dtype=torch.int32),
                                widths=torch.tensor([30000], dtype=torch.int32))
    )  # fmt: skip
    with pytest.raises(ValueError, match="40000x30000 pixels is too large for the executor fused"):
        fused.FusedViews(BUSY, device=DEVICE).prepare(huge, drawn(BUSY, decoded))


def test_auto_takes_what_feeds_the_device():
    assert choose_executor("auto", torch.device("cuda")) == "fused"
    assert choose_executor("auto", CPU) == "compiled"
    assert choose_executor("reference", torch.device("cuda")) == "reference"
    with pytest.raises(ValueError, match="makes views on CUDA devices, not on 'cpu'; use compiled"):
        choose_executor("fused", CPU)


def test_fused_is_refused_on_a_cpu():
    code = (
        "import torch; from pipeline.augment.fused import FusedViews\n"
        "from pipeline.augment.recipe import LARGE_EVEN, MultiCropRecipe\n"
        "try: FusedViews(MultiCropRecipe(), device=torch.device('cpu'))\n"
        "except ValueError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=compiling()
    )
    assert said.stdout.strip().endswith("makes views on CUDA devices, not on 'cpu'; use compiled")


def compiling():
    """The environment of a process in which Triton compiles."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def test_a_batch_of_another_size_compiles_nothing():
    code = (
        "from pipeline.augment import fused_kernels as kernels\n"
        "for kernel in (kernels.resample, kernels.recolor, kernels.blur):\n"
        "    print(*(p.name for p in kernel.params if p.do_not_specialize))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=compiling()
    )
    assert said.stdout.split("\n")[:3] == ["limit batch", "batch", "batch"], said.stderr


@pytest.mark.slow
def test_kernels_compile_without_spills(tmp_path):
    script = Path(__file__).with_name("compile_fused.py")
    run = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env=compiling() | {"TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    resources = json.loads(run.stdout)
    assert {name.split()[1] for name in resources} == {"sm_80", "sm_90"}
    spilled = {name: r for name, r in resources.items() if r["spills"] or r["stack"]}
    assert not spilled
    assert all(r["shared"] <= 48 * 1024 for r in resources.values())


FULL = MultiCropRecipe()


def on_gpu(recipe=FULL, num=8, dtype=torch.float32):
    decoded = batch_of([(375, 500)] * num)
    executor = make_executor("fused", recipe, device=torch.device("cuda"), dtype=dtype)
    return executor, decoded, drawn(recipe, decoded, seed=1)


@pytest.mark.gpu
def test_launching_neither_waits_nor_allocates():
    executor, decoded, params = on_gpu()
    work = executor.prepare(decoded, params)
    executor.launch(work)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    with sync_debug_mode("error"):
        executor.launch(work)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.gpu
@pytest.mark.parametrize("fill", ["constant", "image-mean"])
def test_a_cuda_graph_replays_the_launch(fill):
    executor, decoded, params = on_gpu(replace(FULL, mask_fill=fill))
    work = executor.prepare(decoded, params)
    executor.launch(work)
    torch.cuda.synchronize()
    expected = work.large.clone(), work.small.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        executor.launch(work)
    work.large.zero_()
    work.small.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(work.large, expected[0])
    assert torch.equal(work.small, expected[1])


@pytest.mark.gpu
def test_device_memory_stays_flat_over_2000_batches():
    executor, decoded, params = on_gpu(num=4, dtype=torch.bfloat16)
    for number in range(2100):
        if number == 100:  # buffers have grown, and the allocator has its blocks
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        executor(decoded, params)
    torch.cuda.synchronize()
    # views of a batch are 1.3 MB: one in a hundred that is lost would show
    assert torch.cuda.memory_allocated() - before[0] < 20 << 20
    assert torch.cuda.memory_reserved() - before[1] <= 20 << 20


def test_a_mean_that_the_recipe_does_not_announce_is_a_fault():
    decoded = batch_of([(4, 4)])
    params = drawn(BUSY, decoded)
    params = replace(params, mask_source=np.full_like(params.mask_source, MEAN))
    with pytest.raises(AssertionError):
        fused.FusedViews(BUSY, device=DEVICE).prepare(decoded, params)
