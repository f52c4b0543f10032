"""The multimodal language model: open_flamingo's Flamingo, its tokenizer and its files."""
