"""Import torchvision even if its wheel was built for CUDA and torch was not.

The package index only has CUDA builds of torchvision. With a CPU build of torch, importing it fails with `operator
torchvision::nms does not exist`, which transformers hides behind `Could not import module`. Declaring the two schemas makes
the import work; nothing here calls the operators. If torchvision imports normally, this does nothing. Call it before
importing open_clip or a transformers model.
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
