"""The trie against a slow oracle of nested dictionaries, its file format, and the stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grace.config import Identifiers
from grace.errors import GraceError
from grace.identifiers import identifiers
from grace.identifiers.base import flatten, load_identifiers
from grace.trie import Trie, trie
from grace.trie_build import _by_levels, _pack, number_nodes

END = 7
BODIES = st.lists(st.tuples(st.lists(st.integers(0, END - 1), max_size=5), st.integers(0, 5)), min_size=1, max_size=40)


def oracle(sequences: list[list[int]], images: list[int]) -> dict:
    """Nested dictionaries: token -> sub-tree; the key None holds the images of a leaf."""
    root: dict = {}
    for sequence, image in zip(sequences, images, strict=True):
        node = root
        for token in sequence:
            node = node.setdefault(token, {})
        node.setdefault(None, set()).add(image)
    return root


def same(tree: Trie, node: int, expected: dict, depth: int = 0) -> int:
    """Compare the tree under `node` with the oracle; return the number of nodes seen."""
    tokens, nodes = tree.children(node)
    assert tokens.tolist() == sorted(token for token in expected if token is not None)
    assert tree.levels[depth] <= node < tree.levels[depth + 1]
    assert tree.images_at(node) == [tree.image_ids[image] for image in sorted(expected.get(None, []))]
    below = zip(tokens.tolist(), nodes.tolist(), strict=True)
    return 1 + sum(same(tree, child, expected[token], depth + 1) for token, child in below)


@settings(max_examples=150, deadline=None)
@given(BODIES)
def test_trie_equals_nested_dictionaries(bodies):
    sequences = [[*body, END] for body, _ in bodies]
    images = [image for _, image in bodies]
    tree = Trie.build(sequences, images, [f"image{row}" for row in range(6)])
    expected = oracle(sequences, images)
    assert tree.problem() is None
    assert same(tree, 0, expected) == tree.nodes
    assert tree.depth == max(map(len, sequences))
    for sequence, image in zip(sequences, images, strict=True):
        assert f"image{image}" in tree.images_at(tree.walk(sequence))
        assert tree.walk([*sequence, END]) is None
        assert tree.walk([*sequence[:-1], END + 1]) is None
    assert int(tree.leaf_first[-1]) == len({(tuple(body), image) for body, image in bodies})


@settings(max_examples=20, deadline=None)
@given(bodies=BODIES)
def test_saved_trie_is_the_same(bodies, tmp_path_factory):
    path = tmp_path_factory.mktemp("trie") / "trie.safetensors"
    tree = Trie.build(
        [[*body, END] for body, _ in bodies], [row for _, row in bodies], ["a", "b", "ü", "d d", "e", "f"]
    )
    tree.save(path, fingerprint="abc")
    again = Trie.open(path)
    for name in ("labels", "first", "leaf", "leaf_first", "leaf_images", "levels"):
        assert torch.equal(getattr(tree, name), getattr(again, name)), name
        assert getattr(tree, name).dtype == getattr(again, name).dtype
    assert (again.image_ids, again.depth, again.fan_out) == (tree.image_ids, tree.depth, tree.fan_out)
    assert again.fingerprint == "abc"


def test_one_leaf():
    tree = Trie.build([[3, END]], [0], ["only"])
    assert (tree.nodes, tree.leaves, tree.depth, tree.fan_out) == (3, 1, 2, 1)
    assert tree.levels.tolist() == [0, 1, 2, 3]
    assert tree.labels.tolist() == [-1, 3, END]
    assert tree.images_at(tree.walk([3, END])) == ["only"]
    assert tree.images_at(0) == []


def test_several_images_at_a_leaf_and_several_leaves_of_an_image():
    tree = Trie.build([[1, END], [1, END], [2, 2, END], [1, END]], [0, 1, 1, 0], ["a", "b"])
    assert tree.images_at(tree.walk([1, END])) == ["a", "b"]
    assert tree.images_at(tree.walk([2, 2, END])) == ["b"]
    assert tree.leaf_first.tolist() == [0, 2, 3]


def test_order_of_sequences_does_not_matter():
    sequences = np.random.default_rng(0).integers(0, 5, size=(60, 3)).tolist()
    one = Trie.build(sequences, list(range(60)), [str(row) for row in range(60)])
    two = Trie.build(sequences[::-1], list(range(60))[::-1], [str(row) for row in range(60)])
    assert torch.equal(one.labels, two.labels) and torch.equal(one.leaf_images, two.leaf_images)


@pytest.mark.parametrize(
    ("sequences", "images", "said"),
    [
        ([[1, 2], [1, 2, 3]], [0, 0], "not prefix-free"),
        ([[1, 2, 3], [5], [1]], [0, 0, 0], "not prefix-free"),
        ([[1], []], [0, 0], "has no token"),
        ([], [], "one sequence at least"),
        ([[1]], [0, 0], "for every sequence"),
        ([[-1]], [0], "negative"),
        ([[2**31]], [0], "too large"),
        ([[1]], [1], "image rows"),
        ([[1]], [-1], "image rows"),
    ],
)
def test_what_cannot_be_a_trie_is_refused(sequences, images, said):
    with pytest.raises(GraceError, match=said):
        Trie.build(sequences, images, ["a"])


def test_defect_14_trie_is_arrays_and_the_constraint_is_never_empty():
    """A node is an integer into tensors (no dictionaries), and every node that is no leaf has a child to go on with."""
    generator = np.random.default_rng(3)
    sequences = [[*generator.integers(0, 6, size=generator.integers(1, 7)).tolist(), END] for _ in range(300)]
    tree = Trie.build(sequences, np.arange(300), [str(row) for row in range(300)])
    values = [getattr(tree, name) for name in tree.__dataclass_fields__]
    assert not any(isinstance(value, dict) for value in values)
    children = tree.first.diff()
    assert torch.equal(children > 0, tree.leaf < 0)
    begins, ends = tree.first[:-1].long(), tree.first[1:].long()
    assert (begins[children > 0] > torch.arange(tree.nodes)[children > 0]).all() and int(ends[-1]) == tree.nodes
    # All beams step at once: tensors in, tensors out, one gather a level.
    nodes = torch.zeros(300, dtype=torch.long)
    tokens = torch.tensor([sequence[0] for sequence in sequences])
    slots = begins[nodes][:, None] + torch.arange(tree.fan_out)
    valid = slots < ends[nodes][:, None]
    assert ((tree.labels[slots.clamp(max=tree.nodes - 1)] == tokens[:, None]) & valid).sum(1).eq(1).all()


@pytest.mark.parametrize("change", ["labels", "first", "leaf", "leaf_first", "leaf_images", "levels"])
def test_structure_check_finds_a_changed_array(change):
    tree = Trie.build([[1, 2, END], [1, 3, END], [4, END]], [0, 1, 2], ["a", "b", "c"])
    assert tree.problem() is None
    array = getattr(tree, change)
    for place in range(len(array)):
        original = int(array[place])
        array[place] = 99 if change != "labels" else -5
        assert tree.problem() is not None, f"{change}[{place}]"
        array[place] = original
    assert tree.problem() is None


def test_damaged_files_are_refused_in_words(tmp_path: Path):
    path = tmp_path / "trie.safetensors"
    Trie.build([[1, 2, END], [1, 3, END]], [0, 1], ["a", "b"]).save(path)
    whole = path.read_bytes()
    with pytest.raises(GraceError, match="missing"):
        Trie.open(tmp_path / "none.safetensors")
    flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
    for content in (whole[: len(whole) // 2], whole[:-1], flipped, b"not a trie", b""):
        path.write_bytes(content)
        with pytest.raises(GraceError, match="run trie again"):
            Trie.open(path)


def test_changed_metadata_is_refused(tmp_path: Path):
    path = tmp_path / "trie.safetensors"
    Trie.build([[1, END]], [0], ["a"]).save(path, fingerprint="aaaa")
    path.write_bytes(path.read_bytes().replace(b'"aaaa"', b'"bbbb"'))
    with pytest.raises(GraceError, match="damaged"):
        Trie.open(path)


def test_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr("grace.trie.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        Trie.build([[1, END]], [0], ["a"]).save(tmp_path / "trie.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["numeric", "string", "semantic", "structured", "atomic"])
def test_stage_holds_the_gallery_and_no_other_image(tiny, tokenizer_folder: Path, tmp_path: Path, scheme: str):
    folder, path = tmp_path / scheme, tmp_path / "trie.safetensors"
    identifiers(
        scheme=scheme, seed=0, tokenizer=tokenizer_folder, output=folder,
        settings=Identifiers(clusters=3, leaf_size=3), **tiny,
    )  # fmt: skip
    trie(identifiers=folder, tokenizer=tokenizer_folder, output=path)
    tree = Trie.open(path)
    tree.check(folder)
    assert sorted(tree.image_ids) == sorted(f"im{row}" for row in range(34, 54))
    from transformers import AutoTokenizer

    end = [] if scheme == "atomic" else [AutoTokenizer.from_pretrained(tokenizer_folder).get_vocab()["<|endofchunk|>"]]
    for row in load_identifiers(folder).table.itertuples():
        node = tree.walk([*row.tokens.tolist(), *end])
        reached = tree.images_at(node) if node is not None else []
        assert (row.image_id in reached) == (row.split == "test")


def test_trie_of_another_table_is_refused(tiny, tokenizer_folder: Path, tmp_path: Path):
    for seed in (0, 1):
        identifiers(
            scheme="numeric", seed=seed, tokenizer=tokenizer_folder, output=tmp_path / f"{seed}",
            settings=Identifiers(), **tiny,
        )  # fmt: skip
    trie(identifiers=tmp_path / "0", tokenizer=tokenizer_folder, output=tmp_path / "trie.safetensors")
    tree = Trie.open(tmp_path / "trie.safetensors")
    tree.check(tmp_path / "0")
    with pytest.raises(GraceError, match="another identifier table"):
        tree.check(tmp_path / "1")


def test_stage_says_what_is_missing(tiny, tokenizer_folder: Path, tmp_path: Path):
    folder, path = tmp_path / "numeric", tmp_path / "trie.safetensors"
    with pytest.raises(GraceError, match="folder of identifiers is missing"):
        trie(identifiers=folder, tokenizer=tokenizer_folder, output=path)
    identifiers(
        scheme="numeric", seed=0, tokenizer=tokenizer_folder, output=folder, settings=Identifiers(), **tiny
    )  # fmt: skip
    with pytest.raises(GraceError, match="tokenizer folder is missing"):
        trie(identifiers=folder, tokenizer=tmp_path / "none", output=path)
    broken = tmp_path / "broken"
    shutil.copytree(tokenizer_folder, broken)
    (broken / "tokenizer.json").write_text('{"version":')
    with pytest.raises(GraceError, match="cannot be loaded"):
        trie(identifiers=folder, tokenizer=broken, output=path)
    assert not path.exists()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=60), st.booleans())
def test_one_sort_and_level_by_level_number_alike(sequences, sort):
    """The two ways of construction are each other's oracle; here also for sets that are not prefix-free."""
    sequences = sorted(sequences) if sort else sequences
    flat, lengths = flatten(sequences)
    assert _pack(flat, lengths) is not None
    quick, slow = number_nodes(flat, lengths), _by_levels(flat, lengths)
    for name in ("labels", "first", "levels", "ends"):
        assert np.array_equal(getattr(quick, name), getattr(slow, name)), name


def test_alphabets_that_do_not_fit_a_key_are_numbered_level_by_level():
    rng = np.random.default_rng(0)
    flat, lengths = rng.integers(0, 2**31 - 1, 700 * 9), np.full(700, 9)
    assert _pack(flat, lengths) is None
    nodes = number_nodes(flat, lengths)
    assert nodes.levels[-1] == len(nodes.labels) and len(np.unique(nodes.ends)) == 700


def test_keys_that_leave_no_room_for_a_row_number_are_sorted_alike():
    rng = np.random.default_rng(1)
    lengths = rng.integers(9, 13, 300)
    flat = rng.integers(0, 28, lengths.sum())
    _, bits, _ = _pack(flat, lengths)
    assert 63 - 9 < sum(bits) <= 63
    quick, slow = number_nodes(flat, lengths), _by_levels(flat, lengths)
    assert all(
        np.array_equal(getattr(quick, name), getattr(slow, name)) for name in ("labels", "first", "levels", "ends")
    )
