"""The rehearsal of the CUDA path, without a GPU: `make rehearse`, or some of its parts by name.

fake            a step on CUDA tensors without memory, in nine configurations
one, two        train.train() under the stub CUDA runtime, alone and as one of two; planted faults
step, step-of-eight    launches, collectives and host time of a step, against a budget
bench           ladder and certificate under the stub
triton-VERSION  all kernels compiled for sm_90
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.rehearsal import stub

ROOT = Path(__file__).resolve().parents[2]
PLAYED = ("fake", "one", "two", "step", "step-of-eight", "bench")
COMPILE = ROOT / "tests/pipeline/augment/compile_fused.py"
OTHER_TRITONS = sorted(Path(sys.prefix).glob("triton-*"))  # pip install --target
SHARED_BYTES = 48 * 1024  # what a program has without asking for more


def main(wanted: list[str]) -> int:
    """Run the parts, one after another, whatever comes of each; return the exit status."""
    tritons = {"triton": None, **{path.name: path for path in OTHER_TRITONS}}
    parts = [*PLAYED, *tritons]
    if unknown := set(wanted) - set(parts):
        print(f"no such part: {', '.join(unknown)}; there are {', '.join(parts)}")
        return 2
    failed, began = [], time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        folder = Path(name)
        library = stub.build(folder / "stub")
        for part in wanted or parts:
            print(f"== {part}", flush=True)
            start = time.perf_counter()
            if part in tritons:
                well = compiles(tritons[part], folder / "cache" / part)
            else:
                (folder / part).mkdir()
                well = plays(part, folder / part, library)
            if not well:
                failed.append(part)
            print(f"== {part}: {'well' if well else 'FAILED'}, {time.perf_counter() - start:.0f} s")
    minutes = (time.perf_counter() - began) / 60
    verdict = f"FAILED: {' '.join(failed)}" if failed else "all well"
    print(f"rehearsed in {minutes:.1f} minutes: {verdict}")
    return 1 if failed else 0


def plays(part: str, folder: Path, library: Path) -> bool:
    """Run a part under the stub; a warning is an error."""
    own = {"LD_PRELOAD": str(library), "STUB_LOG": str(folder / "log"), "OMP_NUM_THREADS": "1"}
    module = ["tests.rehearsal.fake"] if part == "fake" else ["tests.rehearsal.play", part, folder]
    command = [sys.executable, "-W", "error", "-m", *map(str, module)]
    return not subprocess.run(command, env=os.environ | own, cwd=ROOT, timeout=600).returncode


def compiles(triton: Path | None, cache: Path) -> bool:
    """Compile every variant of the kernels by a version of Triton; none may spill."""
    own = {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(triton or "")}
    version = "import triton; print(triton.__version__)"
    said, made = (
        subprocess.run(
            [sys.executable, *rest], env=os.environ | own, cwd=ROOT, capture_output=True, text=True
        )
        for rest in (["-c", version], [COMPILE, "--all"])
    )
    if made.returncode:
        print(made.stderr[-2000:])
        return False
    resources = json.loads(made.stdout)
    wasteful = {
        name: found
        for name, found in resources.items()
        if found["spills"] or found["stack"] or found["shared"] > SHARED_BYTES
    }
    print(
        f"Triton {said.stdout.strip()}: {len(resources)} kernels, of which spill: {wasteful or 0}"
    )
    return not wasteful


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
