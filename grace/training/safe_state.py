"""Reading DeepSpeed's state files without running anything in them.

DeepSpeed calls `torch.load(..., weights_only=False)`. While this is in force every `torch.load` takes tensors, numbers and
the few classes of DeepSpeed that its own states hold, and refuses everything else. Those are a loss scaler (ZeRO 1 to 3 hold one
in fp32 and bf16 too), the number of the stage, and the place of a parameter in its flat buffer (ZeRO 1 and 2): plain values all.

Python before 3.11.4 writes a member of an enumeration as `getattr(class, name)`, and `getattr` is nothing that a file may call:
the number of the stage is therefore written as a call of its class, as later versions of Python do of themselves.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from grace.system.errors import GraceError


def write_stages_as_numbers() -> None:
    """Let every later `torch.save` write DeepSpeed's number of the ZeRO stage such that `loading_tensors_only` takes it."""
    from deepspeed.runtime.zero.config import ZeroStageEnum

    copyreg.pickle(ZeroStageEnum, lambda stage: (ZeroStageEnum, (int(stage),)))


@contextmanager
def loading_tensors_only() -> Iterator[None]:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    plain = torch.load

    def careful(*args, **kwargs):
        return plain(*args, **{**kwargs, "weights_only": True})

    torch.load = careful
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    except (torch.serialization.pickle.UnpicklingError, EOFError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GraceError(f"the training state cannot be read ({first}); delete its folder to start anew") from None
    finally:
        torch.load = plain
