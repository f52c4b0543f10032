"""What the stage `train` refuses before it reads anything: options that contradict the settings."""

from __future__ import annotations

import pytest

from grace.system.errors import GraceError
from grace.training.stage import train
from grace.workflow.config import Atomic, Flamingo, Training


@pytest.mark.parametrize(("weight", "named"), [(2.0, False), (0.0, True)])
def test_a_weight_without_a_tower_and_a_tower_without_a_weight_are_errors(tiny, make, tokenizer_folder, weight, named):
    make("numeric", name="numeric")
    folder, tower = tiny["dataset"].parent, tiny["dataset"] if named else None
    with pytest.raises(GraceError, match="give both or neither"):
        train(
            scheme="numeric", seed=0, tokenizer=tokenizer_folder, identifiers=folder / "numeric", output=folder / "model",
            state=folder / "state", flamingo=Flamingo(), training=Training(distillation=weight, start_from="scratch"),
            atomic_head=Atomic(), tower=tower, **tiny,
        )  # fmt: skip
