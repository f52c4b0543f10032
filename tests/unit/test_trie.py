"""The trie against a slow oracle of nested dictionaries, its file format, and the stage."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grace.identifiers import identifiers
from grace.identifiers.base import flatten, load_identifiers
from grace.identifiers.tree import Trie, trie
from grace.identifiers.tree.build import Nodes, _by_levels, _pack, number_nodes
from grace.identifiers.tree.file import open_trie, save_trie, structure_problem
from grace.identifiers.tree.tree import ARRAYS
from grace.system.errors import GraceError
from grace.workflow.config import Identifiers

END = 7
BODIES = st.lists(
    st.tuples(st.lists(st.integers(0, END - 1), min_size=1, max_size=5), st.integers(0, 5)), min_size=1, max_size=40
)


def oracle(sequences: list[list[int]], images: list[int]) -> dict:
    """Nested dictionaries: token -> sub-tree; the key None holds the images of a leaf."""
    root: dict = {}
    for sequence, image in zip(sequences, images, strict=True):
        node = root
        for token in sequence:
            node = node.setdefault(token, {})
        node.setdefault(None, set()).add(image)
    return root


def same(tree: Trie, node: int, expected: dict, path: tuple[int, ...] = ()) -> int:
    """Compare the tree under `node` with the oracle; return the number of nodes seen."""
    tokens, nodes = tree.children(node)
    assert tokens.tolist() == sorted(token for token in expected if token is not None)
    assert tree.levels[len(path)] <= node < tree.levels[len(path) + 1]
    assert tree.images_at(node) == [tree.image_ids[image] for image in sorted(expected.get(None, []))]
    assert tree.paths(torch.tensor([[node]])).tolist() == [[[*path] + [-1] * (tree.depth - len(path))]]
    below = zip(tokens.tolist(), nodes.tolist(), strict=True)
    return 1 + sum(same(tree, child, expected[token], (*path, token)) for token, child in below)


@settings(max_examples=150, deadline=None)
@given(BODIES)
def test_trie_equals_nested_dictionaries(bodies):
    sequences = [body for body, _ in bodies]
    images = [image for _, image in bodies]
    tree = Trie.build(sequences, images, [f"image{row}" for row in range(6)], END)
    expected = oracle(sequences, images)
    assert structure_problem(tree) is None
    assert same(tree, 0, expected) == tree.nodes
    assert tree.depth == max(map(len, sequences))
    for sequence, image in zip(sequences, images, strict=True):
        assert f"image{image}" in tree.images_of(sequence)
        assert tree.images_of([*sequence, END]) == [] == tree.images_of([*sequence[:-1], END + 1])
    different = {tuple(body) for body, _ in bodies}
    assert tree.leaves == len(different) == sum(tree.leaves_at)
    assert [sum(len(body) == depth for body in different) for depth in range(tree.depth + 1)] == list(tree.leaves_at)
    assert len(tree.leaf_images) == len({(tuple(body), image) for body, image in bodies})


@settings(max_examples=20, deadline=None)
@given(bodies=BODIES)
def test_saved_trie_is_the_same(bodies, tmp_path_factory):
    path = tmp_path_factory.mktemp("trie") / "trie.safetensors"
    tree = Trie.build([body for body, _ in bodies], [row for _, row in bodies], ["a", "b", "ü", "d d", "e", "f"], END)
    save_trie(tree, path, fingerprint="abc")
    for again in (open_trie(path), open_trie(path, verify=False)):
        for name in ARRAYS:
            assert torch.equal(getattr(tree, name), getattr(again, name)), name
            assert getattr(tree, name).dtype == getattr(again, name).dtype
        assert list(again.image_ids) == list(tree.image_ids)
        for name in ("levels", "fan_out", "leaves", "end"):
            assert getattr(again, name) == getattr(tree, name), name
        assert again.fingerprint == "abc"


def test_one_leaf():
    tree = Trie.build([[3, 5]], [0], ["only"], END)
    assert (tree.nodes, tree.leaves, tree.depth, tree.fan_out, tree.uniform) == (3, 1, 2, (1, 1), True)
    assert tree.levels == (0, 1, 2, 3)
    assert tree.labels.tolist() == [0, 3, 5]
    assert tree.images_of([3, 5]) == ["only"]
    assert tree.images_at(0) == [] == tree.images_of([3])


@pytest.mark.parametrize(("token", "dtype"), [(2**16 - 1, torch.int16), (2**16, torch.int32)])
def test_labels_take_two_bytes_where_tokens_allow_it(tmp_path: Path, token: int, dtype: torch.dtype):
    save_trie(Trie.build([[1, token], [token, 2**15]], [0, 1], ["a", "b"], END), tmp_path / "trie.safetensors")
    tree = open_trie(tmp_path / "trie.safetensors")
    assert tree.labels.dtype == dtype
    assert tree.images_of([1, token]) == ["a"] and tree.images_of([token, 2**15]) == ["b"]
    assert tree.paths(torch.arange(tree.nodes)).max() == token


def test_several_images_at_a_leaf_and_several_leaves_of_an_image():
    tree = Trie.build([[1], [1], [2, 2], [1]], [0, 1, 1, 0], ["a", "b"], END)
    assert tree.images_of([1]) == ["a", "b"]
    assert tree.images_of([2, 2]) == ["b"]
    assert tree.leaf_first.tolist() == [0, 2, 3]


def test_order_of_sequences_does_not_matter():
    sequences = np.random.default_rng(0).integers(0, 5, size=(60, 3)).tolist()
    one = Trie.build(sequences, list(range(60)), [str(row) for row in range(60)], END)
    two = Trie.build(sequences[::-1], list(range(60))[::-1], [str(row) for row in range(60)], END)
    assert torch.equal(one.labels, two.labels) and torch.equal(one.leaf_images, two.leaf_images)


@pytest.mark.parametrize(
    ("sequences", "images", "said"),
    [
        ([[1, 2], [1, 2, 3]], [0, 0], "not prefix-free"),
        ([[1, 2, 3], [5], [1]], [0, 0, 0], "not prefix-free"),
        ([[1], []], [0, 0], "has no token"),
        ([], [], "at least one sequence"),
        ([[1]], [0, 0], "for every sequence"),
        ([[-1]], [0], "negative"),
        ([[2**31]], [0], "too large"),
        ([[1]], [1], "image rows"),
        ([[1]], [-1], "image rows"),
    ],
)
def test_what_cannot_be_a_trie_is_refused(sequences, images, said):
    with pytest.raises(GraceError, match=said):
        Trie.build(sequences, images, ["a"], None)


def test_the_end_token_inside_an_identifier_is_refused():
    with pytest.raises(GraceError, match="identifier 1 contains the end token 7"):
        Trie.build([[1, 2], [3, END, 4]], [0, 0], ["a"], END)
    with pytest.raises(GraceError, match="has no token"):
        Trie.build([[1], []], [0, 0], ["a"], END)


def test_defect_14_trie_is_arrays_and_the_constraint_is_never_empty():
    """A node is an integer into tensors (no dictionaries), and every node has a child to go on with or ends an identifier."""
    generator = np.random.default_rng(3)
    sequences = [generator.integers(0, 6, size=generator.integers(1, 7)).tolist() for _ in range(300)]
    tree = Trie.build(sequences, np.arange(300), [str(row) for row in range(300)], END)
    values = [getattr(tree, name) for name in tree.__dataclass_fields__]
    assert not any(isinstance(value, dict) for value in values)
    children = torch.zeros(tree.nodes, dtype=torch.int32)
    children[: len(tree.first) - 1] = tree.first.diff()
    assert ((children > 0) | tree.is_leaf).all()
    begins, ends = tree.first[:-1].long(), tree.first[1:].long()
    # All beams step at once: tensors in, tensors out, one gather a level.
    nodes = torch.zeros(300, dtype=torch.long)
    tokens = torch.tensor([sequence[0] for sequence in sequences])
    slots = begins[nodes][:, None] + torch.arange(tree.fan_out[0])
    valid = slots < ends[nodes][:, None]
    assert ((tree.tokens_into(slots.clamp(max=tree.nodes - 1)) == tokens[:, None]) & valid).sum(1).eq(1).all()


@pytest.mark.parametrize("end", [END, None])
@pytest.mark.parametrize("change", ["labels", "first", "leaf_nodes", "leaf_first", "leaf_images"])
def test_structure_check_finds_a_changed_array(change, end):
    tree = Trie.build([[1, 2], [1, 3], [1, 3], [4]], [0, 1, 0, 2], ["a", "b", "c"], end)
    assert structure_problem(tree) is None
    array = getattr(tree, change)
    for place in range(len(array)):
        original = int(array[place])
        array[place] = 99 if change != "labels" else (5, 4, 1, 3, 2)[place]  # not in the order of the siblings
        tree.__dict__.pop("is_leaf", None)
        assert structure_problem(tree) is not None, f"{change}[{place}]"
        array[place] = original
    tree.__dict__.pop("is_leaf", None)
    assert structure_problem(tree) is None


@pytest.mark.parametrize(
    ("name", "value"), [("levels", (0, 1, 4, 5)), ("fan_out", (2, 9)), ("leaves", 7), ("levels", (0, 1, 3))]
)
def test_structure_check_finds_changed_metadata(name, value):
    for sequences in ([[1, 2], [1, 3], [4, 4]], [[1, 2], [1, 3], [4]]):
        tree = Trie.build(sequences, [0, 1, 2], ["a", "b", "c"], END)
        assert structure_problem(tree) is None
        assert structure_problem(dataclasses.replace(tree, **{name: value})) is not None


def test_damaged_files_are_refused_in_words(tmp_path: Path):
    path = tmp_path / "trie.safetensors"
    save_trie(Trie.build([[1, 2], [1, 3]], [0, 1], ["a", "b"], END), path)
    whole = path.read_bytes()
    with pytest.raises(GraceError, match="missing"):
        open_trie(tmp_path / "none.safetensors")
    flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
    for content in (whole[: len(whole) // 2], whole[:-1], flipped, b"not a trie", b""):
        path.write_bytes(content)
        with pytest.raises(GraceError, match="run trie again"):
            open_trie(path)


def test_every_flipped_byte_is_found(tmp_path: Path):
    path = tmp_path / "trie.safetensors"
    save_trie(Trie.build([[1, 2], [1, 3], [4]], [0, 1, 1], ["a", "b"], END), path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(GraceError, match=r"trie .*run trie again"):
            open_trie(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(GraceError, match="run trie again"):
            open_trie(path)


def test_changed_metadata_is_refused(tmp_path: Path):
    path = tmp_path / "trie.safetensors"
    save_trie(Trie.build([[1]], [0], ["a"], END), path, fingerprint="aaaa")
    path.write_bytes(path.read_bytes().replace(b'"aaaa"', b'"bbbb"'))
    with pytest.raises(GraceError, match="damaged"):
        open_trie(path)


def test_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr("grace.identifiers.tree.file.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        save_trie(Trie.build([[1]], [0], ["a"], END), tmp_path / "trie.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["numeric", "string", "semantic", "structured", "atomic"])
def test_stage_holds_the_gallery_and_no_other_image(tiny, tokenizer_folder: Path, tmp_path: Path, scheme: str):
    folder, path = tmp_path / scheme, tmp_path / "trie.safetensors"
    identifiers(
        scheme=scheme, seed=0, tokenizer=tokenizer_folder, output=folder,
        settings=Identifiers(clusters=3, leaf_size=3), **tiny,
    )  # fmt: skip
    trie(identifiers=folder, tokenizer=tokenizer_folder, output=path)
    tree = open_trie(path)
    tree.check(load_identifiers(folder))
    assert sorted(list(tree.image_ids)) == sorted(f"im{row}" for row in range(34, 54))
    for row in load_identifiers(folder).table.itertuples():
        assert (row.image_id in tree.images_of(row.tokens.tolist())) == (row.split == "test")


def test_trie_of_another_table_is_refused(tiny, tokenizer_folder: Path, tmp_path: Path):
    for seed in (0, 1):
        identifiers(
            scheme="numeric", seed=seed, tokenizer=tokenizer_folder, output=tmp_path / f"{seed}",
            settings=Identifiers(), **tiny,
        )  # fmt: skip
    trie(identifiers=tmp_path / "0", tokenizer=tokenizer_folder, output=tmp_path / "trie.safetensors")
    tree = open_trie(tmp_path / "trie.safetensors")
    tree.check(load_identifiers(tmp_path / "0"))
    with pytest.raises(GraceError, match="a different identifier table"):
        tree.check(load_identifiers(tmp_path / "1"))


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
    assert alike(quick, slow)


def alike(quick: Nodes, slow: Nodes) -> bool:
    """The same nodes, and every sequence ends in the same one."""
    ends = quick.ends.copy()
    if quick.order is not None:
        ends[quick.order] = quick.ends
    same = [np.array_equal(getattr(quick, name), getattr(slow, name)) for name in ("labels", "first", "levels")]
    return all(same) and np.array_equal(ends, slow.ends)


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
    assert alike(quick, slow)
