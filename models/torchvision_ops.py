"""Lets `import torchvision` work beside a CPU-only torch.

The registry's torchvision wheel is linked against CUDA. Next to a CPU build of torch its C++ operators do not load,
`import torchvision` then fails with "operator torchvision::nms does not exist", and with it `import peft` and every
video processor of transformers. Declaring the two operators that torchvision registers Python kernels for is enough:
resizing and normalising are pure torch. Detection operators stay unusable, and nothing here calls them.

`declare` is named in the entry-point group `torch.backends` (pyproject.toml), which torch runs at the end of its own
import, so Ray workers and Prefect subprocesses get it too.
https://docs.pytorch.org/docs/stable/notes/extending.html (autoloading of out-of-tree extensions)
"""

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[object] = []  # torch drops an operator when the library object that defined it is collected


def declare() -> None:
    """Declare torchvision's operators where torch has no CUDA or ROCm; do nothing elsewhere."""
    import torch

    if torch.version.cuda or torch.version.hip:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _libraries.append(library)
