"""The beam search never reads a tensor on the host between its levels: shown without a GPU, and on one where there is one.

Tensors of the device `meta` have shapes and no values, so a search that asks for a value fails there; it is the path of an
accelerator that runs, since only a processor is asked for scores. transformers' OPT looks at its mask on the host in every
pass, whatever the search does, so OPT is tried for that failure: it shows that the test can see one.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from grace.identifiers.base import read_tokenizer
from grace.retrieval.beam_search import beam_search
from tests.unit.test_against_generate import BEAMS, Case


@torch.inference_mode()
@pytest.mark.parametrize("leaves_at_once", [0, 40])
@pytest.mark.parametrize("lengths", [(4, 4), (1, 5)])
@pytest.mark.parametrize("family", ["mpt", "llama"])
def test_the_search_asks_for_no_value(
    family: str, lengths: tuple[int, int], leaves_at_once: int, tokenizer_folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(family, 0, read_tokenizer(tokenizer_folder), lengths)
    # Llama's rotary embedding switches autocast off for the device at hand, and meta knows none
    monkeypatch.setattr("transformers.models.llama.modeling_llama.torch.autocast", lambda **_: nullcontext())
    model, trie = case.model.to("meta"), case.trie.to("meta")
    queries, media = case.queries.to("meta"), case.media.to("meta")
    found = beam_search(model, queries, media, trie, BEAMS, BEAMS, leaves_at_once=leaves_at_once)
    assert found.scores.shape == (len(queries), BEAMS) and found.scores.is_meta


@torch.inference_mode()
def test_a_value_that_is_asked_for_is_seen(tokenizer_folder) -> None:
    case = Case("opt", 0, read_tokenizer(tokenizer_folder), (4, 4))
    model, trie = case.model.to("meta"), case.trie.to("meta")
    with pytest.raises(RuntimeError, match="meta"):
        beam_search(model, case.queries.to("meta"), case.media.to("meta"), trie, BEAMS, BEAMS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@torch.inference_mode()
@pytest.mark.parametrize("lengths", [(4, 4), (1, 5)])
@pytest.mark.parametrize("family", ["mpt", "llama"])
def test_on_a_gpu_without_a_sync_and_with_the_answers_of_a_processor(
    family: str, lengths: tuple[int, int], tokenizer_folder
) -> None:
    case = Case(family, 0, read_tokenizer(tokenizer_folder), lengths)
    want = beam_search(case.model, case.queries, case.media, case.trie, BEAMS, BEAMS)
    model, trie = case.model.to("cuda"), case.trie.to("cuda")
    queries, media = case.queries.to("cuda"), case.media.to("cuda")
    beam_search(model, queries, media, trie, BEAMS, BEAMS)  # the first pass of a library may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = beam_search(model, queries, media, trie, BEAMS, BEAMS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.scores.cpu().flatten().tolist() == pytest.approx(want.scores.flatten().tolist(), abs=1e-3)
