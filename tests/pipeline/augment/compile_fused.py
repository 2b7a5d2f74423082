"""Compile the fused executor's kernels ahead of time, without a GPU; one JSON object on stdout.

Run as a script, in a process of its own: where Triton's interpreter is on, kernels are no kernels.
With --all: every combination of the recipe's options, for sm_90.

{"resample sm_90 ...": {"registers": .., "spills": .., "stack": .., "shared": ..}, ..}
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from pipeline.augment import fused_kernels as kernels
from pipeline.augment.fused import BLOCK, BLUR_TILE, CROP_REGISTERS, CROP_TILE

ARCHITECTURES = (80, 90)
POINTERS = {
    "words": "*i32",
    "pixels": "*u8",
    "offsets": "*i64",
    "heights": "*i32",
    "widths": "*i32",
    "grids": "*u8",
    "level_sums": "*i64",
    "table": "*i32",
    "table_floats": "*fp32",
    "thresholds": "*fp32",
    "radii": "*i32",
    "scratch": "*u16",
    "batch": "i32",
    "limit": "i32",
}
PLAIN = {"CUBIC": True, "ANTIALIAS": False, "TORCHVISION": False, "IMAGE_MEAN": False}
VARIANTS = [
    PLAIN,
    PLAIN | {"ANTIALIAS": True},
    PLAIN | {"CUBIC": False, "TORCHVISION": True, "IMAGE_MEAN": True},
]


def constants(size, views, first, variant):
    strips, tiles = -(-size // CROP_TILE[0]), -(-size // BLUR_TILE)
    radius = {224: 11, 96: 4}[size]
    return variant | {
        "FIRST": first,
        "VIEWS": views,
        "ALL_VIEWS": 6,
        "SIZE": size,
        "STRIPS": strips,
        "ROWS": CROP_TILE[0],
        "COLUMNS": CROP_TILE[1],
        "PARTS": strips,
        "PARTS_POWER": triton.next_power_of_2(strips),
        "BLOCK": BLOCK,
        "TILES": tiles,
        "T": BLUR_TILE,
        "RADIUS": radius,
        "TAPS": triton.next_power_of_2(2 * radius + 1),
        "PROGRAMS": 32,
    }


def compiled(kernel, architecture, out_type, mine):
    names = kernel.arg_names
    types = POINTERS | {"out": out_type, "sums": "*fp32"}
    if kernel is kernels.add_levels:
        types |= {"sums": "*i64"}
    signature = {name: "constexpr" if name in mine else types.get(name, "fp32") for name in names}
    # As a launch finds them: all memory begins at a multiple of 16 bytes.
    aligned = {
        (number,): [["tt.divisibility", 16]]
        for number, name in enumerate(names)
        if signature[name].startswith("*")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=mine, attrs=aligned)
    options = {"maxnreg": CROP_REGISTERS} if kernel is kernels.resample else {}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def resources(binary, architecture):
    """What ptxas says of the PTX, and that there is a cubin."""
    assert binary.asm["cubin"][:4] == b"\x7fELF"
    ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    target = re.search(r"\.target (sm_\w+)", binary.asm["ptx"]).group(1)
    # Not /dev/null: ptxas removes its output when it fails, and root can remove a device.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(binary.asm["ptx"])
        command = [str(ptxas), "-v", f"--gpu-name={target}", file, "-o", file.with_suffix(".cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    number = {
        "registers": r"Used (\d+) registers",
        "spills": r"(\d+) bytes spill stores",
        "stack": r"(\d+) bytes stack frame",
    }
    found = {name: int(re.search(pattern, said).group(1)) for name, pattern in number.items()}
    return found | {"shared": binary.metadata.shared}


def main():
    every = "--all" in sys.argv
    choices = itertools.product([True, False], repeat=len(PLAIN))
    variants = [dict(zip(PLAIN, values, strict=True)) for values in choices] if every else VARIANTS
    result, seen = {}, {}
    for architecture, out_type, (size, views, first), (number, variant), name in itertools.product(
        ARCHITECTURES[-1:] if every else ARCHITECTURES,
        ("*bf16", "*fp32"),
        ((224, 4, 0), (96, 2, 4)),
        enumerate(variants),
        ("resample", "recolor", "blur", "add_levels"),
    ):
        kernel = getattr(kernels, name)
        values = constants(size, views, first, variant)
        mine = {name: value for name, value in values.items() if name in kernel.arg_names}
        # Most options are of the crop only.
        same = name, architecture, "out" in kernel.arg_names and out_type, *mine.items()
        if same not in seen:
            seen[same] = resources(compiled(kernel, architecture, out_type, mine), architecture)
        key = f"{name} sm_{architecture} {out_type[1:]} {size} variant {number}"
        result[key] = seen[same]
        print(key, result[key], file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
