"""Whether a GPU has a hardware engine for JPEGs: asked of nvJPEG, the library that drives it.

DALI does not tell: without an engine it decodes by CUDA and says nothing.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

_HARDWARE = 3  # NVJPEG_BACKEND_HARDWARE of nvjpeg.h


def hardware_engines(libraries: list[Path] | None = None) -> int | None:
    """Return the number of engines of the current CUDA device; None: nobody can tell.

    Needs a CUDA context. `libraries`: where nvJPEG may be; by default, where its package has it.
    """
    for path in nvjpeg_libraries() if libraries is None else libraries:
        try:
            library = ctypes.CDLL(str(path))
            return _ask(library)
        except (OSError, AttributeError):  # it cannot be loaded, or is too old to answer
            continue
    return None


def nvjpeg_libraries() -> list[Path]:
    """The shared libraries of installed nvJPEG packages."""
    package = find_spec("nvidia")
    if package is None:
        return []
    folders = map(Path, package.submodule_search_locations or ())
    return [path for folder in folders for path in sorted(folder.glob("*/lib/libnvjpeg.so*"))]


def _ask(library: ctypes.CDLL) -> int:
    handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(0), ctypes.c_uint(0)
    count = library.nvjpegGetHardwareDecoderInfo
    if library.nvjpegCreateEx(_HARDWARE, None, None, 0, ctypes.byref(handle)):
        return 0  # NVJPEG_STATUS_ARCH_MISMATCH, as a rule
    try:
        status = count(handle, ctypes.byref(engines), ctypes.byref(cores))
        return 0 if status else int(engines.value)
    finally:
        library.nvjpegDestroy(handle)
