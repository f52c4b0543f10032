"""Reading DeepSpeed's state files without running anything in them.

DeepSpeed calls `torch.load(..., weights_only=False)`. Inside `loading_tensors_only` every `torch.load` accepts tensors, numbers and
the few classes of DeepSpeed that its states hold, and refuses everything else. Those are a loss scaler (ZeRO 1 to 3 hold one in
fp32 and bf16 too), the number of the stage, and the address of a parameter in its flat buffer (ZeRO 1 and 2), all plain values.

Python before 3.11.4 pickles a member of an enumeration as `getattr(class, name)`, and no file may call `getattr`; the number of the
stage is therefore written as a call of its class, as later versions of Python do by default.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from grace.system.errors import GraceError


def write_stages_as_numbers() -> None:
    """Let every later `torch.save` write DeepSpeed's ZeRO stage in a form that `loading_tensors_only` accepts."""
    from deepspeed.runtime.zero.config import ZeroStageEnum

    copyreg.pickle(ZeroStageEnum, lambda stage: (ZeroStageEnum, (int(stage),)))


@contextmanager
def loading_tensors_only() -> Iterator[None]:
    """Let `torch.load` run no code of a file; a file that would need that, or is broken, raises a `GraceError`."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    plain = torch.load

    def careful(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **{**kwargs, "weights_only": True})

    torch.load = careful
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    except (torch.serialization.pickle.UnpicklingError, EOFError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GraceError(
            f"the training state cannot be read ({first}); delete its folder to train from scratch"
        ) from None
    finally:
        torch.load = plain
