"""The inference environment has no DeepSpeed: no command that runs in it can come to an import of it.

The source is read, not run, so that an import inside a function counts too. tests/conda shows the same for real.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from grace.workflow.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]


def environments() -> dict[str, str]:
    """{stage: environment} as the rules have it."""
    found = {}
    for path in (ROOT / "rules").glob("*.smk"):
        for rule in re.split(r"^ *rule (?=\w+:)", path.read_text(), flags=re.MULTILINE)[1:]:
            stage = re.search(r'params_of\("(\w+)"', rule)  # rules that run once per scheme have names of their own
            environment = re.search(r'"\.\./envs/(\w+)\.yaml"', rule)
            if environment:  # a target has none
                found[stage[1] if stage else rule.partition(":")[0]] = environment[1]
    assert set(STAGES) <= set(found)
    return found


def source_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


def imported(tree: ast.AST, top_only: bool = False) -> set[str]:
    """Names of modules, and of what is taken from them, that `tree` imports: anywhere, or outside of functions."""
    found = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not followed"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def reached(tree: ast.AST) -> dict[str, list[str]]:
    """{module: the way to it} of all that `tree` imports, itself or through modules of this project."""
    ways = {name: [name] for name in imported(tree)}
    waiting = list(ways)
    while waiting:
        name = waiting.pop()
        path = source_of(name) if name.split(".")[0] == "grace" else None
        if path is None:
            continue
        parents = {
            name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)
        }  # a package's __init__ runs too
        # the modules of the command line hold many commands; what each of them imports is in its own function
        top_only = name.startswith("grace.cli")
        for further in imported(ast.parse(path.read_text()), top_only) | parents:
            if further not in ways:
                ways[further] = [*ways[name], further]
                waiting.append(further)
    return ways


def command(stage: str) -> ast.Module:
    """The functions of a stage's commands, with the imports at the top of their module."""
    names = {f"{part}_command" for part in (("scenes", "karpathy", "folder") if stage == "dataset" else (stage,))}
    for path in sorted((ROOT / "grace/cli").glob("*.py")):
        tree = ast.parse(path.read_text())
        own = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
        if own:
            assert len(own) == len(names)
            return ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)] + own, [])
    raise AssertionError(f"no command of the stage {stage}")


INFERENCE = sorted(stage for stage, name in environments().items() if name == "infer" and stage in STAGES)
TRAINING = sorted(stage for stage, name in environments().items() if name == "train")


def test_which_stages_run_where():
    assert TRAINING == ["captioner", "encode", "tower", "train"]
    assert set(INFERENCE) | set(TRAINING) == set(STAGES)


@pytest.mark.parametrize("stage", INFERENCE)
def test_no_inference_command_reaches_deepspeed(stage):
    ways = reached(command(stage))
    deepspeed = [way for name, way in ways.items() if name.split(".")[0] == "deepspeed"]
    assert not deepspeed, " -> ".join(deepspeed[0])
    assert len(ways) > 10  # the reading itself works


@pytest.mark.parametrize("stage", ["captioner", "train"])
def test_training_does_reach_it(stage):
    """The test above could fail."""
    assert any(name.split(".")[0] == "deepspeed" for name in reached(command(stage)))
