"""Import torchvision where its wheel was built for CUDA and torch was not.

The package index has CUDA builds of torchvision only. Beside a CPU build of torch its import fails with `operator
torchvision::nms does not exist`, and transformers then hides that behind `Could not import module`. Declaring the two
schemas makes the import work; nothing here calls the operators. Where torchvision loads, this does nothing.
Call it before open_clip or a model of transformers is imported.
"""

from __future__ import annotations

import sys


def import_torchvision() -> None:
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision  # noqa: F401
