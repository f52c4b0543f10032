"""From token sequences to level-order arrays: the vectorised construction behind `grace.identifiers.tree.Trie`.

Every sequence becomes one integer key, with its tokens packed into as few bits as each position's alphabet needs, so that
one sort puts all sequences in lexicographic order. A node is then a run of equal key prefixes: a new node begins where the
prefix changes from one row to the next. Alphabets too large for 63 bits are sorted level by level instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PIECE = 2**14
"""Number of sequences processed at a time."""


@dataclass(frozen=True)
class Nodes:
    """Level-order nodes of S sequences. `first[n] .. first[n + 1]` are the children of node n; node 0 is the root.

    Rows are the sequences in the order `order` (None: as given). Only if the rows are sorted (`rows_sorted`) do the nodes in
    `ends` increase from row to row.
    """

    labels: np.ndarray  # int32 [nodes], labels[0] = 0
    first: np.ndarray  # int32 [inner + 1]: for all nodes except those of the last level
    levels: np.ndarray  # int64 [depth + 2]
    ends: np.ndarray  # int32 [S]: the node where each row ends
    order: np.ndarray | None  # int64 [S]
    rows_sorted: bool


def number_nodes(flat: np.ndarray, lengths_S: np.ndarray) -> Nodes:
    """Number the nodes of sequences (`flat`: all their tokens, int [sum of lengths], not negative; lengths at least 1)."""
    packed = _pack(flat, lengths_S)
    return _by_levels(flat, lengths_S) if packed is None else _by_keys(lengths_S, *packed)


def gather_leaves(nodes: Nodes, images_S: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """leaf_nodes, leaf_first and leaf_images (see `grace.identifiers.tree.Trie`); the images of a leaf are sorted and distinct."""
    images = images_S.astype(np.int32)
    images = images if nodes.order is None else images.take(nodes.order)
    last = int(nodes.levels[-2])
    none = np.empty(0, dtype=np.int32)
    if (nodes.ends >= last).all():  # one length: the leaves are the last level
        leaf_nodes, leaf, leaves = none, nodes.ends - last, len(nodes.labels) - last
    else:
        numbers = np.zeros(len(nodes.labels), dtype=np.int32)
        numbers[nodes.ends] = 1
        leaf_nodes = np.flatnonzero(numbers)
        numbers[leaf_nodes] = np.arange(len(leaf_nodes), dtype=np.int32)
        leaf, leaves = numbers[nodes.ends], len(leaf_nodes)
    if leaves == len(images):  # all sequences are distinct
        if nodes.rows_sorted and not len(leaf_nodes):
            return leaf_nodes, none, images
        leaf_images = np.empty(leaves, dtype=np.int32)
        leaf_images[leaf] = images
        return leaf_nodes, none, leaf_images
    pairs = leaf.astype(np.int64) << 32 | images
    pairs.sort()  # np.unique hashes integers and takes ten times as long
    pairs = pairs[np.concatenate([[True], pairs[1:] != pairs[:-1]])]
    counts = np.bincount(pairs >> 32, minlength=leaves)
    return leaf_nodes, np.concatenate([[0], np.cumsum(counts)]), pairs & 0xFFFFFFFF


def _columns(flat: np.ndarray, lengths_S: np.ndarray):
    """For every depth, yield the rows of the sequences that reach it (None: all) and their tokens there."""
    depth = int(lengths_S.max())
    if (lengths_S == depth).all():
        matrix = flat.reshape(-1, depth)
        for place in range(depth):
            yield None, matrix[:, place]
        return
    starts_S = np.cumsum(lengths_S) - lengths_S
    rows = np.arange(len(lengths_S))
    for place in range(depth):
        rows = rows[lengths_S[rows] > place]
        yield rows, flat[starts_S[rows] + place]


def _cells(flat: np.ndarray, lengths_S: np.ndarray):
    """Yield (rows, place, their tokens) for all sequences, in pieces that fit in the CPU cache."""
    depth = int(lengths_S.max())
    uniform = bool((lengths_S == depth).all())
    starts_S = None if uniform else np.cumsum(lengths_S) - lengths_S
    for begin in range(0, len(lengths_S), PIECE):
        rows: slice | np.ndarray = slice(begin, min(begin + PIECE, len(lengths_S)))
        if uniform:
            matrix = flat[rows.start * depth : rows.stop * depth].reshape(-1, depth)
            yield from ((rows, place, matrix[:, place]) for place in range(depth))
            continue
        rows = np.arange(rows.start, rows.stop)
        for place in range(depth):
            rows = rows[lengths_S[rows] > place]
            yield rows, place, flat[starts_S[rows] + place]


def _pack(flat: np.ndarray, lengths_S: np.ndarray) -> tuple[np.ndarray, list[int], list[np.ndarray]] | None:
    """Keys (int64 [S]), bits of each position, and its tokens by code; None if the keys need more than 63 bits.

    Code 0 is "no token", so a sequence sorts right before those that it is a prefix of.
    """
    depth, known = int(lengths_S.max()), None
    if depth * int(flat.max()) > 4 * len(flat) + 2**20:  # tables over all token ids would cost more than they save
        known, flat = np.unique(flat, return_inverse=True)
    seen = np.zeros((depth, int(flat.max()) + 1), dtype=bool)
    for _, place, tokens in _cells(flat, lengths_S):
        seen[place][tokens] = True
    alphabets = [np.flatnonzero(here) for here in seen]
    bits = [len(alphabet).bit_length() for alphabet in alphabets]
    if sum(bits) > 63:
        return None
    left = sum(bits) - np.cumsum(bits)
    codes = np.cumsum(seen, axis=1, dtype=np.int64) << left[:, None]
    keys = np.zeros(len(lengths_S), dtype=np.int64)
    for rows, place, tokens in _cells(flat, lengths_S):
        keys[rows] |= codes[place][tokens]
    tokens_of = alphabets if known is None else [known[alphabet] for alphabet in alphabets]
    return keys, bits, [np.concatenate([[0], tokens]).astype(np.int32) for tokens in tokens_of]


def _by_keys(lengths_S: np.ndarray, keys_S: np.ndarray, bits: list[int], alphabets: list[np.ndarray]) -> Nodes:
    """Nodes from one sort of the keys; a node begins where its part of the key changes."""
    keys, order = _sorted(keys_S, sum(bits))
    same_length = bool((lengths_S == len(bits)).all())
    lengths = lengths_S if order is None or same_length else lengths_S[order]
    # the highest differing bit gives the depth at which a row diverges from the previous one
    changed = np.empty_like(keys)
    changed[0] = np.iinfo(np.int64).max
    np.bitwise_xor(keys[1:], keys[:-1], out=changed[1:])
    left, levels, labels, first = sum(bits), [0, 1], [np.zeros(1, dtype=np.int32)], [np.ones(1, dtype=np.int32)]
    ends = np.zeros(len(keys), dtype=np.int32)
    before = None  # where the nodes of the previous level begin: flags and rows
    for depth, need in enumerate(bits):
        left -= need
        new = changed >= 1 << left
        if not same_length:
            new &= lengths > depth
        last, count = depth == len(bits) - 1, int(np.count_nonzero(new))
        every = count == len(keys)
        begin = slice(None) if last and every else np.flatnonzero(new)
        number = None  # the number of each row's node at this level
        if last and every:
            number = np.arange(levels[-1], levels[-1] + count, dtype=np.int32)
        elif last or not same_length:
            number = np.cumsum(new, dtype=np.int32)
            number += levels[-1] - 1
        if before is not None:
            flags, rows = before
            # A node's first child begins in the node's first row, or after the rows of the identifier that ends there.
            if not same_length:
                first.append(number[rows] + (1 - new[rows].astype(np.int32)))
            else:
                place = rows if every else np.flatnonzero(flags[begin])
                first.append((levels[-1] + place).astype(np.int32))
        codes = keys if last and every else keys[begin]
        codes >>= left  # in place, as below: allocation costs more than the arithmetic, and `keys` is no longer needed
        codes &= (1 << need) - 1
        labels.append(alphabets[depth].take(codes))
        if number is not None:
            here = slice(None) if same_length else lengths == depth + 1
            ends[here] = number[here]
        levels.append(levels[-1] + count)
        before = new, begin
    first.append(np.array(levels[-1:], dtype=np.int32))
    return Nodes(np.concatenate(labels), np.concatenate(first), np.array(levels), ends, order, rows_sorted=True)


def _sorted(keys_S: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The sorted keys, and the rows in that order (None: unchanged).

    Overwrites `keys_S`. If the row number fits into the integer with the key, both are sorted as one; otherwise argsort is
    used.
    """
    if (keys_S[1:] >= keys_S[:-1]).all():
        return keys_S, None
    index_bits = int(len(keys_S) - 1).bit_length()
    if bits + index_bits > 63:
        order = np.argsort(keys_S)
        return keys_S[order], order
    keys_S <<= index_bits
    keys_S |= np.arange(len(keys_S))
    keys_S.sort()
    order = keys_S & ((1 << index_bits) - 1)
    keys_S >>= index_bits
    return keys_S, order


def _by_levels(flat: np.ndarray, lengths_S: np.ndarray) -> Nodes:
    """Nodes level by level: the distinct (parent node, token) pairs of a level, sorted, are the nodes of the next."""
    labels, parents, levels = [np.zeros(1)], [], [0, 1]
    ends = np.zeros(len(lengths_S), dtype=np.int64)
    for rows, tokens in _columns(flat, lengths_S):
        rows = slice(None) if rows is None else rows
        pairs, places = np.unique(ends[rows] << 32 | tokens, return_inverse=True)
        ends[rows] = levels[-1] + places
        labels.append(pairs & 0xFFFFFFFF)
        parents.append(pairs >> 32)
        levels.append(levels[-1] + len(pairs))
    children = np.bincount(np.concatenate(parents), minlength=levels[-2])
    first = 1 + np.concatenate([[0], np.cumsum(children)])
    return Nodes(
        _int32(np.concatenate(labels)), _int32(first), np.array(levels), _int32(ends), order=None, rows_sorted=False
    )


def _int32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int32)
