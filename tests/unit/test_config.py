"""The configuration: defaults, problems in words, slices, overlays merged the way Snakemake merges them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from grace.system.errors import GraceError
from grace.workflow.config import Config, Report, Training, load, parse, parse_settings

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted((ROOT / "config").glob("*.yaml"))


def merged(*files: Path) -> dict:
    """config.yaml with `files` laid over it, by Snakemake's own function."""
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    for file in files:
        update_config(values, yaml.safe_load(file.read_text()))
    return values


def test_the_defaults_of_the_models_are_valid():
    assert Config().schemes == ("atomic", "structured")


def test_overlays_are_found():
    assert {"tiny", "scenes_full", "flickr30k", "flickr8k_sample", "flickr8k_offline"} <= {
        file.stem for file in OVERLAYS
    }


@pytest.mark.parametrize("file", OVERLAYS, ids=lambda file: file.stem)
def test_every_overlay_is_valid_over_config_yaml(file):
    config = parse(Config, merged(file), file.name)
    assert config.output != "results", "an overlay with the default's folder would overwrite the default's table"


def test_a_null_of_an_overlay_takes_back_a_schemes_own_value():
    values = merged(ROOT / "config" / "flickr30k.yaml")
    values["train"]["numeric"]["steps"] = 700
    config = parse(Config, values, "test")
    assert config.train.for_scheme("numeric").steps == 700
    assert config.train.for_scheme("atomic").steps == config.train.steps


def test_flickr30k_is_the_papers_setting():
    config = parse(Config, merged(ROOT / "config" / "flickr30k.yaml"), "flickr30k")
    train = config.train.for_scheme("structured")
    assert (train.memorize_batch, train.retrieve_batch, train.zero_stage, train.precision) == (16, 48, 3, "bf16")
    assert (train.learning_rate, train.schedule, train.warmup_steps, train.weight_decay) == (1e-4, "linear", 500, 0.1)
    assert (config.identifiers.clusters, config.identifiers.leaf_size) == (30, 30)
    assert (config.pseudo_queries.method, config.pseudo_queries.per_image) == ("beam", 5)
    assert config.flamingo.cross_attention_every == 1 and config.retrieve.beams == 10


@pytest.mark.parametrize("name", ["flickr8k", "coco"])
def test_the_public_data_sets_differ_from_flickr30k_in_their_data_only(name):
    config, other = (parse(Config, merged(ROOT / "config" / f"{file}.yaml"), file) for file in (name, "flickr30k"))
    same = {"dataset": other.dataset, "output": other.output}
    assert config.dataset.karpathy.fetched and config.dataset.karpathy.download == config.dataset.name == name
    assert config.model_copy(update=same) == other and config.output != other.output


def test_the_folds_of_coco_1k():
    for fold in range(1, 6):
        config = parse(
            Config, merged(*(ROOT / "config" / f"{file}.yaml" for file in ("coco", f"coco_1k_fold{fold}"))), ""
        )
        assert (config.dataset.karpathy.fold, config.dataset.karpathy.restval) == (fold, "drop")
        assert config.output.endswith(f"fold{fold}") and config.dataset.name.endswith(f"fold{fold}")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"retrive": {}}, "unknown key 'retrive'; did you mean 'retrieve'?"),
        ({"train": {"step": 3}}, "unknown key 'train.step'; did you mean 'steps'?"),
        ({"train": {"steps": 0}}, "train.steps: Input should be greater than 0 (got 0)"),
        ({"schemes": ["atomik"]}, "schemes.0: Input should be 'numeric', 'string', 'semantic', "),
        ({"schemes": []}, "schemes: list at least one scheme"),
        ({"seeds": [1, 1]}, "each may be listed only once"),
        ({"dataset": {"source": "karpathy"}}, "set json_file and images"),
        ({"tower": {"scratch": {"patch_size": 40}}}, "patch_size"),
        ({"dataset": {"name": "my photos"}}, "dataset.name"),
        (["a", "list"], "Input should be"),
        (
            {"schemes": ["numeric"], "train": {"distillation": 2, "pseudo_query_share": 0}},
            "train.distillation trains numeric on its pseudo-queries",
        ),
        (
            {"schemes": ["numeric"], "train": {"distillation": 2, "retrieve_batch": 4, "pseudo_query_share": 0.1}},
            "a batch contains none; raise train.numeric.retrieve_batch and pseudo_query_share, or",
        ),
        (
            {"schemes": ["structured"], "train": {"atomic": {"distillation": 2, "retrieve_batch": 0}}},
            "train.distillation trains atomic on its captions",  # structured starts from it
        ),
    ],
)
def test_a_problem_is_one_line_that_names_the_key(values, said):
    with pytest.raises(GraceError) as problem:
        parse(Config, values, "configuration")
    assert said in str(problem.value) and str(problem.value).startswith("configuration: ")
    assert "\n" not in str(problem.value)


def test_several_problems_are_all_told():
    with pytest.raises(GraceError, match=r"train\.steps.*retrieve\.beams"):
        parse(Config, {"train": {"steps": -1}, "retrieve": {"beams": 0}}, "configuration")


def test_scheme_settings_are_laid_over_train():
    config = parse(Config, {"train": {"steps": 110, "learning_rate": 0.5, "atomic": {"steps": 30}}}, "test")
    atomic, structured = config.train.for_scheme("atomic"), config.train.for_scheme("structured")
    assert (atomic.steps, atomic.learning_rate, structured.steps) == (30, 0.5, 110)
    assert type(atomic) is Training


def test_settings_are_inline_json_or_a_file(tmp_path):
    (tmp_path / "report.yaml").write_text("title: From a file\n")
    assert parse_settings(Report, '{"title": "Inline"}', "--settings").title == "Inline"
    assert parse_settings(Report, str(tmp_path / "report.yaml"), "--settings").title == "From a file"
    with pytest.raises(GraceError, match="cannot read"):
        parse_settings(Report, str(tmp_path / "none.yaml"), "--settings")
    with pytest.raises(GraceError, match="not valid JSON or YAML"):
        parse_settings(Report, '{"title": ', "--settings")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "broken.yaml").write_text("train: [1, 2\n")
    with pytest.raises(GraceError, match=r"broken\.yaml is not valid YAML"):
        load(tmp_path / "broken.yaml")
    with pytest.raises(GraceError, match=r"none\.yaml does not exist"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"schemes": "atomic"}, "schemes: Input should be a valid tuple (got 'atomic'); expected a list, write [atomic]"),
        ({"seeds": 3}, "expected a list, write [3]"),
        ({"schemes": ["atomik"]}, "did you mean 'atomic'?"),
        ({"tower": {"kind": "openclip"}}, "did you mean 'open_clip'?"),
        ({"train": None}, "the section is empty: write its keys below it, or leave it out"),
        ({"train": {"learning_rate": "1,5"}}, "write a point, not a comma: 1.5"),
        ({"train": {"schedule": False}}, "YAML reads off, no or false as false: put the word in quotes"),
        ({"dataset": {"name": True}}, "YAML reads on, yes or true as true: put the word in quotes"),
        ({"train": {"atomic": {"trainable": ["lora"]}}}, "it is a key of train and applies to all schemes: write train.trainable"),
        ({"train": {"atomic": {"step": 3}}}, "did you mean 'steps'?"),
        ({"train": {"learning_rate": float("inf")}}, "train.learning_rate: Input should be a finite number"),
        ({"train": {"steps": 10}}, "train.structured: warmup_steps"),
        ({"captioner": {"steps": 10}}, "captioner: warmup_steps 30 is more than steps 10"),
        ({"tower": {"scratch": {"steps": 10}}}, "tower.scratch: warmup_steps 50 is more than steps 10"),
        ({"train": {"memorize_batch": 0, "retrieve_batch": 0}}, "memorize_batch and retrieve_batch are both 0"),
        ({"tower": {"scratch": {"width": 100, "heads": 3}}}, "heads 3 must divide width 100"),
        ({"tower": {"scratch": {"text_width": 100, "heads": 8}}}, "heads 8 must divide text_width 100"),
        ({"flamingo": {"scratch": {"width": 100, "heads": 3}}}, "flamingo.scratch: heads 3 must divide width 100"),
        ({"flamingo": {"scratch": {"architecture": "llama", "width": 12, "heads": 4}}}, "llama needs heads with an even width"),
        ({"flamingo": {"cross_attention_every": 5}}, "no layer would see an image"),
        ({"resources": {"gpus": 4, "processes": 2}}, "processes 2 on gpus 4"),
        ({"resources": {"gpus": 1, "processes": 2}}, "processes 2 on gpus 1"),
        ({"train": {"zero_stage": 0, "optimizer_offload": "cpu"}}, "optimizer_offload: cpu needs zero_stage"),
        *(({"output": name}, "output: choose a separate folder") for name in ("", " ", ".", "..", "/", "a/..", "../results", "./")),
        *(({"output": name}, "output: choose a separate folder") for name in ("grace", "tests/x", ".git", str(Path.cwd()))),
        *(({"output": name}, "folder's name must not") for name in ("a{b}", "r*", "~/results", "$HOME/r", "a\nb")),
        *(({"dataset": {"name": name}}, "choose another") for name in ("logs", "report", "benchmarks", "metrics.json")),
    ],
)  # fmt: skip
def test_what_would_end_late_or_be_wrong_is_said_at_once(values, said) -> None:
    with pytest.raises(GraceError) as problem:
        parse(Config, values, "configuration")
    assert said in str(problem.value) and "\n" not in str(problem.value)


@pytest.mark.parametrize("values", [{"train": {"learning_rate": "1e-3", "steps": "400"}}, {"output": "results/mine/"}])
def test_what_yaml_reads_as_text_is_a_number_all_the_same(values) -> None:
    config = parse(Config, values, "configuration")
    assert (config.train.learning_rate in (1e-3, 1.5e-3)) and config.train.steps == 400
    assert config.output in ("results", "results/mine")


def test_every_key_once(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("train:\n  steps: 100\n  seed: 1\n  steps: 200\n")
    with pytest.raises(GraceError, match=r"a\.yaml is not valid YAML: duplicate key 'steps' in lines 2 and 4"):
        load(tmp_path / "a.yaml")


@pytest.mark.parametrize("content", ["", "# nothing\n", "[]", "just words", "3"])
def test_a_file_without_keys_is_an_error(tmp_path, content) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(GraceError, match=r"a\.yaml contains no keys"):
        load(tmp_path / "a.yaml")


def test_the_file_of_a_wrong_key_is_named(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("train: {steps: many, seed: 3}\nretrieve: {beams: 0}\n")
    (tmp_path / "b.yaml").write_text("train: {steps: 100}\nseeds: [-1]\n")
    with pytest.raises(GraceError) as problem:
        load(tmp_path / "a.yaml", tmp_path / "b.yaml")
    said = str(problem.value)
    assert f"(got 0) in {tmp_path}/a.yaml" in said and f"(got -1) in {tmp_path}/b.yaml" in said
    assert "unknown key 'train.seed'" in said and "many" not in said


def test_settings_by_hand_are_told_how_to_be_written() -> None:
    with pytest.raises(GraceError, match=r"""write '\{"beams": 3\}'"""):
        parse_settings(Report, "beams=3", "--settings")


@pytest.mark.parametrize("content", ["output: {{results}}", "a: 2024-13-45", "? [1, 2]\n: 3\n"])
def test_yaml_that_cannot_be_keys_is_told_in_words(tmp_path, content) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(GraceError, match=r"a\.yaml"):
        load(tmp_path / "a.yaml")


def test_merge_keys_of_yaml_are_read(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("train:\n  string: &n {steps: 700}\n  numeric: {<<: *n, learning_rate: 0.5}\n")
    config = load(tmp_path / "a.yaml")
    assert (config.train.numeric.steps, config.train.numeric.learning_rate) == (700, 0.5)


def test_a_home_folder_is_put_in_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = parse(
        Config, {"flamingo": {"checkpoint": "~/w.pt"}, "dataset": {"source": "folder", "folder": {"images": "~/p"}}}, ""
    )
    assert (config.flamingo.checkpoint, config.dataset.folder.images) == (f"{tmp_path}/w.pt", f"{tmp_path}/p")
    with pytest.raises(GraceError, match="there is no home folder for ~nobody-at-all"):
        parse(Config, {"flamingo": {"checkpoint": "~nobody-at-all/w.pt"}}, "")
