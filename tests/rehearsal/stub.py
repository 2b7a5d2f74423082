"""Build the stub CUDA runtime against the CUDA build of torch that runs this; print its path."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

SITE = Path(sysconfig.get_paths()["purelib"])
SOURCE = Path(__file__).with_name("stub.c")
# driver_types.h asks for a header that its wheel does not have, for these.
_MACROS = {
    **dict.fromkeys(("device_builtin", "device_builtin_texture_type"), ""),
    **dict.fromkeys(("device_builtin_surface_type", "host", "device"), ""),
    "inline": "inline",
    "forceinline": "inline",
    "noinline": "",
}
_OURS = r"(__)?cuda[A-Z]|cu[A-Z]|cublas|cusolver|nccl"


def build(folder: Path) -> Path:
    """Make the library in `folder`; it stands for the driver, and goes before all by LD_PRELOAD."""
    library = folder / "libcuda.so.1"
    (folder / "crt").mkdir(parents=True, exist_ok=True)
    (folder / "crt/host_defines.h").touch()
    (folder / "rest.c").write_text(_rest(), encoding="utf-8")
    macros = [f"-D__{name}__={value}" for name, value in _MACROS.items()]
    macros += ["-DCUDARTAPI=", "-DCUDARTAPI_CDECL=", "-D__align__(n)=__attribute__((aligned(n)))"]
    macros += ["-D__builtin_align__(n)=__attribute__((aligned(n)))"]
    command = ["gcc", "-w", "-O1", "-shared", "-fPIC", *macros, f"-I{folder}"]
    command += [f"-I{SITE}/nvidia/cu13/include", f"-Wl,-soname,{library.name}", "-o", str(library)]
    subprocess.run([*command, str(SOURCE), str(folder / "rest.c"), "-ldl"], check=True)
    return library


def _rest() -> str:
    """C for the symbols that torch asks for and stub.c does not have."""
    own = set(re.findall(r"\b(\w+)\([^;{]*\) \{", SOURCE.read_text(encoding="utf-8")))
    lines = ["int stub_create(void **); int stub_blas(void *);"]
    for name in sorted(_asked() - own):
        if re.search(r"Create(_v2)?$", name):
            lines.append(f"int {name}(void **h) {{ return stub_create(h); }}")
        elif re.match(r"cublas[A-Z].*(gemm|Gemm|gemv|trsm|dot|geam|getr|gels)", name):
            lines.append(f"int {name}(void *h) {{ return stub_blas(h); }}")
        else:
            lines.append(f"int {name}() {{ return 0; }}")
    return "\n".join(lines)


def _asked() -> set[str]:
    libraries = sorted(str(path) for path in (SITE / "torch/lib").glob("*.so"))
    said = subprocess.run(
        ["nm", "-D", "--undefined-only", *libraries], capture_output=True, text=True, check=True
    ).stdout
    names = (line.split()[-1].partition("@")[0] for line in said.splitlines() if " U " in line)
    return {name for name in names if re.match(_OURS, name)}


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
