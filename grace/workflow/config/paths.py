"""Paths in a configuration: which must exist before anything runs, and which stages read them.

The workflow checks them when it is parsed, so that a mistyped path is reported at once with its key. It also uses the files
as inputs of their stages, so that replacing one reruns what depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grace.system.errors import GraceError
from grace.workflow.config import Config

WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".gguf", ".json", ".ckpt")
"""Extensions that mark the name of a model as a file."""


@dataclass(frozen=True)
class Named:
    """A path given by a key: what it is, and the stages that read it directly."""

    key: str
    path: str
    what: str
    stages: tuple[str, ...] = ()
    folder: bool | None = None  # whether it must be a folder (None: either)


def named(config: Config) -> list[Named]:
    """The paths that the stages of this configuration read but do not write."""
    out: list[Named] = []
    data, flamingo, tower, queries = config.dataset, config.flamingo, config.tower, config.pseudo_queries
    if data.source == "karpathy" and not data.karpathy.fetched:
        out += [
            Named("dataset.karpathy.json_file", data.karpathy.json_file, "the JSON file", folder=False),
            Named("dataset.karpathy.images", data.karpathy.images, "the folder of images", folder=True),
        ]
    if data.source == "folder":
        out.append(Named("dataset.folder.images", data.folder.images, "the folder of images", folder=True))
        if data.folder.captions not in ("", "sidecar"):
            out.append(Named("dataset.folder.captions", data.folder.captions, "the table of captions", folder=False))
        out += _local("dataset.folder.captioner", data.folder.captioner, "the captioner", ("dataset",))
    if queries.source == "file":
        out.append(Named("pseudo_queries.file", queries.file, "the table of pseudo-queries", folder=False))
    models = ("captioner", "train")
    if flamingo.checkpoint:
        out.append(Named("flamingo.checkpoint", flamingo.checkpoint, "the checkpoint", models, folder=False))
    if flamingo.language_model == "pretrained":
        own = flamingo.pretrained
        out += _local("flamingo.pretrained.model", own.model, "the language model", ("tokenizer", *models))
        out += _local("flamingo.pretrained.tokenizer", own.tokenizer, "the tokenizer", ("tokenizer",))
    if tower.kind == "open_clip":
        model = tower.open_clip.model.removeprefix("local-dir:")
        out += _local("tower.open_clip.model", model, "the tower's configuration", ("tower",))
        out += _local("tower.open_clip.pretrained", tower.open_clip.pretrained, "the tower's weights", ("tower",))
    out += [
        Named(f"runs.{name}", path, "the TREC run", ("report",), folder=False) for name, path in config.runs.items()
    ]
    if config.report.benchmark:
        out.append(
            Named("report.benchmark", config.report.benchmark, "the decoding benchmark", ("report",), folder=False)
        )
    return out


def check_paths(config: Config) -> None:
    """Raise a `GraceError` that lists every missing path of the configuration with its key."""
    problems = []
    for found in named(config):
        path = Path(found.path)
        if not _there(path):
            problems.append(f"{found.key}: {found.what} {found.path!r} does not exist (looked for in {Path.cwd()})")
        elif found.folder is not None and path.is_dir() != found.folder:
            kind = "a folder" if found.folder else "a file"
            problems.append(f"{found.key}: {found.what} {found.path!r} is not {kind}")
    if problems:
        raise GraceError("; ".join(problems))


def read_by(config: Config, stage: str) -> list[str]:
    """The paths that a stage reads besides the outputs of other stages."""
    return [found.path for found in named(config) if stage in found.stages]


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than the system allows
        return False


def _local(key: str, name: str, what: str, stages: tuple[str, ...]) -> list[Named]:
    """The path given by `name`, unless it is the name of something in a hub or package."""
    is_path = bool(name) and (_there(Path(name)) or name.startswith(("/", "./", "../")) or name.endswith(WEIGHTS))
    return [Named(key, name, what, stages)] if is_path else []
