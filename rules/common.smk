# What all rules share: the checked configuration, the slices that the stages read, the guessable paths.
import json
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import apply_wildcards

sys.path.insert(0, workflow.basedir)

from grace.clock import no_times_to_come
from grace.config import Config
from grace.config import parse as parse_config
from grace.config.overlays import Overlays
from grace.config.paths import check_paths, read_by
from grace.data.listing import listing_digest
from grace.ending import last_line, was_asked_to_end
from grace.errors import GraceError
from grace.schemes import SCHEMES
from grace.stages import STAGES

try:
    CONFIG = parse_config(Config, config, "configuration", Overlays(workflow.configfiles).origin)
    check_paths(CONFIG)
except GraceError as error:
    raise WorkflowError(str(error)) from None

# Jobs import the package from the repository, whatever the working directory is. Without GPUs in the configuration a job
# sees none. A stage ends when the Snakemake that started it is gone (grace/ending.py).
shell.prefix(
    f"set -euo pipefail; export GRACE_WORKFLOW=$PPID PYTHONPATH={shlex.quote(str(workflow.basedir))}${{{{PYTHONPATH:+:$PYTHONPATH}}}}; "
    + ("export CUDA_VISIBLE_DEVICES=; " if CONFIG.resources.gpus == 0 else "")
    + ("" if CONFIG.resources.adapt_threads else "export GRACE_THREADS=fixed; ")
)

OUTPUT = CONFIG.output
DATA = f"{OUTPUT}/{CONFIG.dataset.name}"
RUN = f"{DATA}/{{scheme}}/seed{{seed}}"
LOGS = f"{OUTPUT}/logs/{CONFIG.dataset.name}"
TIMES = f"{OUTPUT}/benchmarks/{CONFIG.dataset.name}"
SYSTEMS = ["baseline"] + [f"{scheme}/seed{seed}" for scheme in CONFIG.schemes for seed in CONFIG.seeds]
THREADS = CONFIG.resources.train_threads
ALONE = CONFIG.resources.solo_threads
GPU = CONFIG.resources.gpus
MEMORY = CONFIG.resources.memory_mb
VAL = "--val" if CONFIG.train.validate_every else ""  # a training is validated on images that it has memorised
LAUNCH = CONFIG.resources.launcher or (
    "python"
    if CONFIG.resources.processes == 1
    else f"python -m grace.training.launch --standalone --nproc-per-node {CONFIG.resources.processes}"
)


wildcard_constraints:
    scheme="|".join(SCHEMES),
    seed=r"\d+",
    system=rf"baseline|({'|'.join(SCHEMES)})/seed\d+",


def as_json(**sections):
    """One line of JSON: a section of the configuration, or several by name."""
    dumped = {name: section.model_dump(mode="json") for name, section in sections.items()}
    return json.dumps(dumped["section"] if "section" in dumped else dumped, sort_keys=True)


def part(section, *names):
    """One line of JSON: only these keys of a section, for a stage that reads no others."""
    return json.dumps(section.model_dump(mode="json", include=set(names)), sort_keys=True)


def memory(mb):
    """What a job asks of a scheduler, MB: as much more with every further attempt, after a kill for memory.

    A stage that was asked to end (scancel, out of time) is not submitted again: it said so in its log.
    """

    def ask(wildcards, attempt, rulename):
        for log in workflow.get_rule(rulename).log if attempt > 1 else []:
            log = apply_wildcards(str(log), wildcards)  # a path names its wildcards with their constraints
            if was_asked_to_end(log):
                raise WorkflowError(
                    f"{rulename} was cancelled and is not submitted again; {log} ends: {last_line(log)}"
                )
        return attempt * mb

    return ask


def start_from(wildcards):
    """The model folder that a scheme starts from, or none."""
    choice = CONFIG.train.for_scheme(wildcards.scheme).start_from
    if choice == "captioner":
        return f"{DATA}/captioner"
    return f"{DATA}/atomic/seed{wildcards.seed}/model" if choice == "atomic" else []


def benchmark_of_decoding(wildcards):
    """The file of `make bench` that the page shows, if there is one."""
    named = CONFIG.report.benchmark
    found = f"{OUTPUT}/decoding_benchmark.json"
    return [named] if named else [found] if os.path.exists(found) else []


def teacher(wildcards):
    """The tower whose answers a scheme learns from, or none."""
    return f"{DATA}/tower" if CONFIG.train.for_scheme(wildcards.scheme).distillation else []


def wanted(wildcards):
    """What `all` makes: the output of every stage, or with `--until train` the models.

    The report alone would do for a first run. But Snakemake takes a missing file whose products are up to date for one that
    nobody needs: after `snakemake -R train` was killed the model would stay missing, and the run would say it had nothing to do.

    Snakemake (9.27) starts no job that depends on a job of the rule that --until names, so it would never start a training
    that has another training's model as its input. To want the models and drop the --until means the same.
    """
    if STOP or workflow.dag.untilrules == {"train"}:
        STOP.update(workflow.dag.untilrules)
        workflow.dag.untilrules.clear()
        return expand(rules.train.output, scheme=CONFIG.schemes, seed=CONFIG.seeds)
    made = [
        output for stage in STAGES if stage != "captioner" or CONFIG.captioner_is_read for output in outputs_of(stage)
    ]
    for needed in (rules.identifiers, rules.train):
        made += expand(needed.output, scheme=CONFIG.trained_schemes, seed=CONFIG.seeds)
    return sorted(set(made))


STOP = set()


class ByStage(type(workflow)):
    """The workflow, with `snakemake evaluate` for everything up to that stage.

    Snakemake (9.27) takes no rule with wildcards for a target, and tells a Snakefile its targets only after reading it. So
    when it hands them over, the name of such a stage becomes what the stage makes in this configuration.
    """

    def __setattr__(self, name, value):
        if name == "dag_settings" and value is not None:
            takes = lambda target: target not in STAGES or not getattr(rules, target).rule.has_wildcards()
            value.targets = {
                output for target in value.targets for output in ([target] if takes(target) else outputs_of(target))
            }
        super().__setattr__(name, value)


def outputs_of(stage):
    """Everything that a stage makes in this configuration."""
    return expand(getattr(rules, stage).output, system=SYSTEMS, scheme=CONFIG.schemes, seed=CONFIG.seeds)


workflow.__class__ = ByStage


def photos(wildcards):
    """A digest of the user's own folder of photos: what is in it decides whether the stage `dataset` runs again."""
    folder = CONFIG.dataset.folder
    try:
        return listing_digest(Path(folder.images), Path(OUTPUT), folder.captions == "sidecar")
    except GraceError as error:
        raise WorkflowError(f"dataset.folder: {error}") from None
