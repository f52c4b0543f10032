"""Paths that a configuration names: which must be there before anything runs, and which stage reads them.

The workflow asks when it is read, so that a path with a typing error is told at once and with its key; and it takes the files as
inputs of their stages, so that one that is replaced runs what depends on it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grace.system.errors import GraceError
from grace.workflow.config import Config

WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".gguf", ".json", ".ckpt")
"""Endings by which a name of a model is that of a file."""


@dataclass(frozen=True)
class Named:
    """A path that a key names: what it is, and the stages that read it as it is."""

    key: str
    path: str
    what: str
    stages: tuple[str, ...] = ()
    folder: bool | None = None  # whether it must be a folder (None: either)


def named(config: Config) -> list[Named]:
    """The paths that the stages of this configuration read and do not make."""
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
    if config.report.benchmark:
        out.append(
            Named("report.benchmark", config.report.benchmark, "the benchmark of decoding", ("report",), folder=False)
        )
    return out


def check_paths(config: Config) -> None:
    """Raise a `GraceError` that names every path of the configuration that is not there, with its key."""
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
    """The paths that a stage reads beside what other stages make."""
    return [found.path for found in named(config) if stage in found.stages]


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than any path may be
        return False


def _local(key: str, name: str, what: str, stages: tuple[str, ...]) -> list[Named]:
    """The path that `name` is, unless it is a name that a hub or a package knows."""
    is_path = bool(name) and (_there(Path(name)) or name.startswith(("/", "./", "../")) or name.endswith(WEIGHTS))
    return [Named(key, name, what, stages)] if is_path else []
