"""Import torchvision beside a CPU build of torch; for tests and benchmarks only.

The torchvision wheels on PyPI are built for CUDA. Their compiled part needs libraries that only a
CUDA torch has, so under CPU torch it stays unloaded, and `import torchvision` then fails with
"operator torchvision::nms does not exist". Declaring the two operators that the import looks up
makes transforms, models and data sets work; what is compiled (decode_jpeg, nms itself) stays away.
Nothing in pipeline/ or model/ needs torchvision.
"""

import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

# the operators that torchvision gives meta functions to while it is imported
OPERATORS = ("nms", "qnms")


def import_torchvision() -> ModuleType:
    """torchvision, with its operators declared first where its compiled part cannot be loaded.

    Raises ImportError that says what to install when torchvision is missing or fits another torch.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed: pip install -r requirements.txt")
    if needs_operators(Path(spec.origin).parent):
        declare_operators()
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        raise ImportError(
            f"torchvision does not fit torch {torch.__version__} ({error}): install the pair of "
            "versions that requirements.txt names"
        ) from error


def needs_operators(package: Path) -> bool:
    """Whether torch is a CPU build and the torchvision in folder `package` was built for CUDA.

    Declaring an operator that the compiled part registers too fails, so the answer
    must be no wherever that part can be loaded.
    """
    built_for_cuda = any(package.with_name("torchvision.libs").glob("libcudart*"))
    return torch.version.cuda is None and built_for_cuda


@functools.cache
def declare_operators() -> torch.library.Library:
    """Declare `OPERATORS` once; torch forgets them when the library is collected, so it is kept."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
