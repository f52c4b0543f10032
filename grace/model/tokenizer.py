"""The stage `tokenizer`: the language model's tokenizer with the three special tokens, as a folder.

Reads the captions of the train split (for a tokenizer of our own) or a tokenizer by name or folder; writes a folder that
`transformers` loads.

    python -m grace tokenizer --dataset results/scenes/dataset --output results/scenes/tokenizer
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grace.data.tables import load_dataset
from grace.model.language_models import read_configuration
from grace.model.prompts import PAD_TOKEN, SPECIAL_TOKENS, Prompts, check_queries
from grace.model.vocabulary import cut_tokenizer, fetch_tokenizer
from grace.records.stage import stage
from grace.system.files import replacing_folder
from grace.workflow.config import Flamingo
from grace.workflow.schemes import SCHEMES

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")
"""What families of language models call the longest sequence that they read."""


@stage("tokenizer")
def tokenizer(*, dataset: Path, output: Path, settings: Flamingo) -> None:
    """Make the tokenizer folder `output`."""
    tables = load_dataset(dataset)
    if settings.language_model == "scratch":
        made = train_bpe(tables.captions_of("train")["text"].tolist(), settings.scratch.vocabulary)
    else:
        made = fetch_tokenizer(settings.pretrained.tokenizer or settings.pretrained.model)
        if settings.pretrained.vocabulary:
            captions = tables.captions_of("train")["text"].tolist()
            made = cut_tokenizer(made, _seen(captions), settings.pretrained.vocabulary)
    made.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    if made.pad_token is None:
        made.add_special_tokens({"pad_token": PAD_TOKEN})
    limit = _context(settings)
    for split in ("train", "val", "test"):
        texts = tables.captions_of(split)["text"].tolist()
        # `train` asks again with the identifiers of its scheme; those of atomic have no tokens
        check_queries(Prompts(made), texts, 0, limit, f"caption of the split {split}")
    with replacing_folder(output, "tokenizer") as folder:
        made.save_pretrained(folder)


def _context(settings: Flamingo) -> int | None:
    """Longest sequence that the language model will read, tokens; None: its configuration does not say."""
    if settings.language_model == "scratch":
        return settings.scratch.max_length
    config = read_configuration(settings.pretrained.model)
    return next((config[key] for key in CONTEXT_KEYS if config.get(key)), None)


def train_bpe(captions: list[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer (any text round-trips) of at most `vocabulary` tokens, special tokens apart.

    Beside the captions it sees the words of the prompts and a stretch of numbers: a pretrained tokenizer knows how to
    write numbers in chunks, and the string scheme lives on that.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(_seen(captions), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, padding_side="right")


def _seen(captions: list[str]) -> list[str]:
    """The captions at the start and inside of a prompt, the prompts' words, and numbers."""
    # The words of the prompts, names of the schemes among them: a new scheme changes the tokenizer of new runs.
    prompts = [f"image {scheme} id caption:{caption}" for scheme in SCHEMES for caption in captions[:200]]
    numbers = [f" {number}" for number in range(100)] * 20
    return [*captions, *(f" {caption}" for caption in captions), *prompts, *numbers]
