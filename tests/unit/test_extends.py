"""The key `extends`: a configuration file over a base, read alone, with other files, and by way of Snakemake."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

from grace.rules.planned import planned_configuration
from grace.system.errors import GraceError
from grace.workflow.config import Config, load, parse
from grace.workflow.config.overlays import Overlays, laid_over

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "config").glob("*.yaml"))


def write(path: Path, **values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return path


def by_snakemake(*files: Path, command_line: dict | None = None) -> Config:
    """What the workflow makes of --configfile and --config: Snakemake's own merge, then the bases."""
    values: dict = load_configfile(ROOT / "config.yaml")
    for file in files:
        update_config(values, load_configfile(file))
    update_config(values, command_line or {})
    overlays = Overlays([ROOT / "config.yaml", *files])
    return parse(Config, overlays.lay_bases_below(values, command_line or {}), "configuration", overlays.origin)


def test_a_base_is_laid_below_its_file_and_over_everything_before(tmp_path) -> None:
    before = write(tmp_path / "before.yaml", retrieve={"beams": 3, "depth": 30}, evaluate={"seed": 3})
    write(
        tmp_path / "base.yaml", retrieve={"beams": 4, "batch_size": 4}, train={"steps": 400, "log_every": 4}, seeds=[4]
    )
    preset = write(tmp_path / "preset.yaml", extends="base.yaml", train={"log_every": 5, "save_every": 5})
    after = write(tmp_path / "after.yaml", train={"save_every": 6, "warmup_steps": 6}, seeds=[6])
    command_line = {"train": {"warmup_steps": 7}}
    found = by_snakemake(before, preset, after, command_line=command_line)
    assert (found.evaluate.seed, found.retrieve.depth) == (3, 30)
    assert (found.retrieve.beams, found.retrieve.batch_size, found.train.steps) == (4, 4, 400)
    assert (found.train.log_every, found.train.save_every, found.train.warmup_steps) == (5, 6, 7)
    assert found.seeds == (6,)
    assert found == load(before, preset, after, write(tmp_path / "line.yaml", **command_line))


@pytest.mark.parametrize("above", ["the file itself", "a later file", "the command line"])
def test_the_value_of_the_defaults_can_be_asked_for_over_a_base(tmp_path, above) -> None:
    """What a user sets counts, although it is no other than what config.yaml has."""
    default = {"train": {"steps": Config().train.steps}, "seeds": [0]}
    write(tmp_path / "base.yaml", train={"steps": 999}, seeds=[8, 9])
    preset = write(tmp_path / "preset.yaml", extends="base.yaml", **(default if above == "the file itself" else {}))
    later = [write(tmp_path / "later.yaml", **default)] if above == "a later file" else []
    found = by_snakemake(preset, *later, command_line=default if above == "the command line" else {})
    assert (found.train.steps, found.seeds) == (Config().train.steps, (0,))
    assert (by_snakemake(preset).train.steps == 999) == (above != "the file itself")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("other", ["", "openflamingo_9b", "tiny"])
def test_snakemake_and_the_commands_read_a_preset_alike(preset, other) -> None:
    files = [preset, *([ROOT / f"config/{other}.yaml"] if other else [])]
    for order in (files, files[::-1]):
        assert by_snakemake(*order) == load(ROOT / "config.yaml", *order)


def test_a_base_has_a_base_and_paths_are_relative_to_the_file(tmp_path, monkeypatch) -> None:
    write(tmp_path / "shared/lowest.yaml", train={"steps": 300, "log_every": 3}, seeds=[3])
    write(tmp_path / "shared/middle.yaml", extends="lowest.yaml", train={"steps": 400})
    preset = write(tmp_path / "mine/preset.yaml", extends="../shared/middle.yaml", seeds=[5])
    absolute = write(tmp_path / "absolute.yaml", extends=str(tmp_path / "shared/middle.yaml"), seeds=[5])
    monkeypatch.setenv("HOME", str(tmp_path))
    home = write(tmp_path / "home.yaml", extends="~/shared/middle.yaml", seeds=[5])
    for file in (preset, absolute, home):
        found = load(file)
        assert (found.train.steps, found.train.log_every, found.seeds) == (400, 3, (5,))
        assert by_snakemake(file) == found
    monkeypatch.chdir(tmp_path / "mine")
    assert load("preset.yaml") == load(preset)


def test_a_wrong_key_of_a_base_is_said_to_be_in_the_base(tmp_path) -> None:
    base = write(tmp_path / "base.yaml", train={"steps": "many", "log_every": 0})
    preset = write(tmp_path / "preset.yaml", extends="base.yaml", train={"log_every": -1})
    for read in (load, by_snakemake):
        with pytest.raises(GraceError) as problem:
            read(preset)
        assert f"(got 'many') in {base}" in str(problem.value) and f"(got -1) in {preset}" in str(problem.value)


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ("none.yaml", r"extends in .*preset\.yaml: configuration file .*/none\.yaml does not exist; the path is relative to"),
        ("preset.yaml", r"extends in .*preset\.yaml: .*preset\.yaml extends this file in turn"),
        ("back.yaml", r"extends in .*back\.yaml: .*preset\.yaml extends this file in turn"),
        ("folder", r"configuration file .*folder cannot be read"),
        ("broken.yaml", r"broken\.yaml is not valid YAML"),
        ("empty.yaml", r"empty\.yaml contains no keys"),
        ("~nobody-at-all/a.yaml", r"~nobody-at-all/a\.yaml does not exist"),
        (["a.yaml", "b.yaml"], r"extends in .*preset\.yaml: name one configuration file \(got \['a\.yaml', 'b\.yaml'\]\)"),
        (None, r"name one configuration file \(got None\)"),
        ("", r"name one configuration file \(got ''\)"),
    ],
)  # fmt: skip
def test_a_base_that_cannot_be_read_is_an_error_in_words(tmp_path, extends, said) -> None:
    write(tmp_path / "back.yaml", extends="./preset.yaml")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.yaml").write_text("train: [1, 2\n")
    (tmp_path / "empty.yaml").write_text("")
    preset = write(tmp_path / "preset.yaml", extends=extends, seeds=[1])
    for read in (load, by_snakemake):
        with pytest.raises(GraceError, match=said):
            read(preset)


def test_extends_on_the_command_line_is_refused(tmp_path) -> None:
    write(tmp_path / "base.yaml", seeds=[1])
    preset = write(tmp_path / "preset.yaml", extends="base.yaml")
    for files in ([], [preset]):
        with pytest.raises(GraceError, match="'extends' is read in configuration files only"):
            by_snakemake(*files, command_line={"extends": str(preset)})
    with pytest.raises(
        GraceError, match="'extends' is read in configuration files only"
    ):  # given as values, without a file
        Overlays([ROOT / "config.yaml"]).lay_bases_below({"extends": "base.yaml"}, {})


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_module_is_given_the_values_of_a_preset(preset) -> None:
    """As the file holds them: what it extends is looked for in the folder of presets. Files of the importer count for nothing."""
    importer = SimpleNamespace(
        modifier=SimpleNamespace(is_main_snakefile=lambda: False), current_basedir=str(ROOT / "rules")
    )
    changed = {"flamingo": {"checkpoint": ""}}
    values: dict = load_configfile(preset)
    update_config(values, changed)
    found = planned_configuration(importer, values)
    overlays = Overlays([preset])
    assert found == parse(Config, laid_over(overlays.values, changed), "configuration")
    with pytest.raises(GraceError, match=r"config/none\.yaml does not exist"):
        planned_configuration(importer, {"extends": "none.yaml"})


def test_editors_know_the_key() -> None:
    schema = json.loads((ROOT / "config/schema.json").read_text())
    assert schema["properties"]["extends"]["type"] == "string" and not schema["additionalProperties"]
