"""Files of strangers that try to run code, to reach out of their folder or to take all memory: each is refused in words.

docs/explanation/security.md lists what was tried, these and the cases that stand beside the readers' own tests.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from grace.data.images import check_images
from grace.model.language_models import language_model
from grace.model.vocabulary import fetch_tokenizer
from grace.model.weight_files import read_tensors
from grace.system.errors import GraceError
from grace.system.files import read_array, read_json, read_table
from grace.system.torchvision_shim import import_torchvision
from grace.system.weights import load_weights
from grace.workflow.config import Config, Flamingo, load, parse

ROOT = Path(__file__).resolve().parents[2]


class Evil:
    """Unpickled, it makes the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trap(tmp_path):
    """A path that exists after the test only if a file's code was run."""
    path = tmp_path / "code-was-run"
    yield path
    assert not path.exists()


def one_line(error: pytest.ExceptionInfo, *parts: str) -> None:
    said = str(error.value)
    assert "\n" not in said and all(part in said for part in parts), said


def header(text: str, length: int | None = None) -> bytes:
    """A safetensors file that is a header only; `length` is what it says of itself."""
    return struct.pack("<Q", len(text) if length is None else length) + text.encode()


def pretrained(folder: str) -> torch.nn.Module:
    """The language model in a folder, as `train` reads it."""
    import_torchvision()
    settings = Flamingo(language_model="pretrained", pretrained={"model": folder, "tokenizer": folder})
    return language_model(settings, None, pretrained=True)


BIG = 1 << 60
HEADERS = {
    "longer than the file": header("{}", 2**63),
    "of a hundred megabytes": header("{}", 100 << 20),
    "empty": b"",
    "no JSON": header("not JSON at all"),
    "nested": header('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "offsets beyond the end": header('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "an exabyte": header(f'{{"a":{{"dtype":"F32","shape":[{BIG // 4}],"data_offsets":[0,{BIG}]}}}}'),
    "a shape that overflows": header(f'{{"a":{{"dtype":"F32","shape":[{BIG},{BIG}],"data_offsets":[0,0]}}}}'),
    "negative offsets": header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'),
    "offsets that overlap": header(
        '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}'
    )
    + bytes(6),
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS.keys())
def test_a_safetensors_file_with_an_absurd_header(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(GraceError) as error:
        read_tensors(path)
    one_line(error, "model.safetensors", "not a readable safetensors file")
    with pytest.raises(GraceError) as error:
        load_weights(path, torch.nn.Linear(2, 2))
    one_line(error, "model.safetensors", "not a readable safetensors file")


@pytest.mark.parametrize("name", ["checkpoint.pt", "pytorch_model.bin", "open_clip_pytorch_model.bin"])
def test_a_pickle_as_weights(tmp_path, trap, name):
    torch.save({"weight": torch.zeros(2), "more": Evil(trap)}, tmp_path / name)
    with pytest.raises(GraceError) as error:
        read_tensors(tmp_path / name)
    one_line(error, name, "more than tensors")


def test_a_pickle_under_the_name_of_a_safetensors_file(tmp_path, trap):
    torch.save({"weight": Evil(trap)}, tmp_path / "model.safetensors")
    with pytest.raises(GraceError) as error:
        read_tensors(tmp_path / "model.safetensors")
    one_line(error, "not a readable safetensors file")


def test_a_pickle_as_the_weights_of_a_language_model_that_transformers_reads(tmp_path, trap):
    from transformers import GPTNeoXConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    GPTNeoXConfig(vocab_size=50, **sizes).save_pretrained(tmp_path / "model")
    torch.save({"embed_in.weight": Evil(trap)}, tmp_path / "model/pytorch_model.bin")
    with pytest.raises(GraceError) as error:
        pretrained(str(tmp_path / "model"))
    one_line(error, "language model", "more than tensors")


def test_a_pickle_as_the_weights_of_a_tower(tmp_path, trap):
    from grace.towers.openclip import OpenClipTower
    from grace.workflow.config import OpenClip

    torch.save({"state_dict": {"logit_scale": Evil(trap)}}, tmp_path / "weights.pt")
    with pytest.raises(GraceError) as error:
        OpenClipTower(OpenClip(model="ViT-S-32", pretrained=str(tmp_path / "weights.pt")))
    one_line(error, "weights.pt", "more than tensors")


def test_a_folder_with_code_of_its_own(tmp_path, trap, tokenizer_folder):
    """`auto_map` names classes in a Python file beside the model: what trust_remote_code would run."""
    code = f"from pathlib import Path\nPath({str(trap)!r}).touch()\n"
    for name, make in (("model", pretrained), ("tokenizer", fetch_tokenizer)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "evil.py").write_text(code)
        classes = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", "evil.F"]}
        (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": classes}))
        about = {"tokenizer_class": "EvilTokenizer", "auto_map": classes}
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
        with pytest.raises(GraceError) as error:
            make(str(folder))
        one_line(error, str(folder))


def test_an_array_of_pickled_objects(tmp_path, trap):
    np.save(tmp_path / "image_embeddings.npy", np.array([Evil(trap)], dtype=object), allow_pickle=True)
    with pytest.raises(GraceError) as error:
        read_array(tmp_path / "image_embeddings.npy", "image embeddings")
    one_line(error, "not a readable .npy array")


def test_a_table_with_a_pickled_type(tmp_path, trap):
    """Arrow's old extension type of Python keeps a pickle in the schema; reading the table must not load it."""
    import pickle

    about = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Evil(trap)),
    }
    schema = pa.schema([pa.field("image_id", pa.string(), metadata=about)])
    pq.write_table(pa.table({"image_id": ["a"]}, schema=schema), tmp_path / "images.parquet")
    assert read_table(tmp_path / "images.parquet", "images", ["image_id"])["image_id"].tolist() == ["a"]


TAGS = (
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{trap}']]",
    "!!python/object/new:os.system [touch {trap}]",
    "!!python/name:os.system",
    "!!python/module:os",
)


@pytest.mark.parametrize("tag", TAGS)
def test_a_yaml_tag(tmp_path, trap, tag):
    path = tmp_path / "mine.yaml"
    path.write_text(f"output: {tag.format(trap=trap)}\n")
    with pytest.raises(GraceError) as error:
        load(path)
    one_line(error, "mine.yaml is not valid YAML")
    from snakemake.common.configfile import load_configfile
    from snakemake_interface_common.exceptions import WorkflowError

    with pytest.raises((WorkflowError, GraceError)):  # how --configfile reads it, and what rules/common.smk then checks
        parse(Config, load_configfile(str(path)), "configuration")


def test_a_configuration_that_is_a_program_is_told_by_the_check(tmp_path, trap):
    """Snakemake runs the expressions of a file that says __use_yte__; the check reads it as data."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"__use_yte__: true\noutput: ?__import__('pathlib').Path('{trap}').touch()\n")
    with pytest.raises(GraceError) as error:
        load(path)
    one_line(error, "unknown key '__use_yte__'")


def test_a_yaml_of_a_billion_laughs(tmp_path):
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    with pytest.raises(GraceError) as error:
        load(tmp_path / "mine.yaml")
    one_line(error, "unknown key")


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 200_000, "NaN" * 3, "\x00"])
def test_a_json_that_is_none(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(GraceError) as error:
        read_json(tmp_path / "dataset.json")
    one_line(error, "dataset.json")


def test_a_page_as_an_image(tmp_path):
    page = b"<!DOCTYPE html><html><head><title>404</title></head><body><script>alert(1)</script></body></html>"
    vector = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"
    files = {"page.jpg": page, "page.png": page, "vector.png": vector, "script.jpg": postscript}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert [verdict.reason for verdict in check_images(tmp_path, files)] == ["not an image"] * len(files)


def test_every_line_of_the_table_names_a_test():
    """docs/explanation/security.md: its tests exist, and every test of this file stands in it."""
    page = (ROOT / "docs/explanation/security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 20
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
    own = set(re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE))
    assert own - {name for _, name in named} == {"test_every_line_of_the_table_names_a_test"}
