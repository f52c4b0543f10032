"""The prefix tree of the gallery's identifiers: construction, file, lookups, and the stage `trie`."""

from grace.identifiers.tree.stage import trie
from grace.identifiers.tree.tree import Trie

__all__ = ["Trie", "trie"]
