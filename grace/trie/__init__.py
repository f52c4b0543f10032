"""The prefix tree of the gallery's identifiers: construction, file, look-ups, the stage `trie`."""

from grace.trie.stage import trie
from grace.trie.tree import Trie

__all__ = ["Trie", "trie"]
