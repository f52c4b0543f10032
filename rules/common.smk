# What all rules share: the checked configuration, the slices that the stages read, the guessable paths.
import json
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from grace.system.cancelled import forget_cancelled
from grace.system.clock import no_times_to_come
from grace.workflow.config import Config
from grace.workflow.config import parse as parse_config
from grace.workflow.config.overlays import Overlays
from grace.workflow.config.paths import check_paths, read_by
from grace.data.download.sources import check_download
from grace.data.listing import listing_digest
from grace.system.errors import GraceError
from grace.workflow.gpus import promised_gpus
from grace.records.sidecars.last_good import put_back, set_aside
from grace.plan.host import host_memory, is_known
from grace.workflow.schemes import SCHEMES
from grace.workflow.stages import STAGES

# those of the command line are laid over those that the Snakefile names
given = list(map(str, workflow.overwrite_configfiles))
try:
    overlays = Overlays([*(file for file in map(str, workflow.configfiles) if file not in given), *given])
    values = overlays.lay_bases_below(config, workflow.config_settings.config)
    CONFIG = parse_config(Config, values, "configuration", overlays.origin)
    check_paths(CONFIG)
    check_download(CONFIG)
except GraceError as error:
    raise WorkflowError(str(error)) from None

OUTPUT = CONFIG.output
DATA = f"{OUTPUT}/{CONFIG.dataset.name}"
RUN = f"{DATA}/{{scheme}}/seed{{seed}}"
LOGS = f"{OUTPUT}/logs/{CONFIG.dataset.name}"
TIMES = f"{OUTPUT}/benchmarks/{CONFIG.dataset.name}"
SYSTEMS = ["baseline"] + [f"{scheme}/seed{seed}" for scheme in CONFIG.schemes for seed in CONFIG.seeds]
THREADS = CONFIG.resources.train_threads
ALONE = CONFIG.resources.solo_threads
GPUS = promised_gpus(CONFIG)  # of every stage that computes on GPUs
MEMORY = host_memory(CONFIG)  # of every stage that holds a network, MB
CANCELLED = f"{OUTPUT}/.cancelled"
VAL = "--val" if CONFIG.train.validate_every else ""  # a training is validated on images that it has memorised
LAUNCH = CONFIG.resources.launcher or (
    "python"
    if CONFIG.resources.processes == 1
    else f"python -m grace.training.launch --standalone --nproc-per-node {CONFIG.resources.processes}"
)


# Jobs import the package from the repository, whatever the working directory is. A stage ends when the Snakemake that started it
# is gone (grace/system/ending.py), sees the GPUs that it was promised and no others (grace/workflow/gpus.py), and does not start again in the
# same run after it was asked to end (grace/system/cancelled.py).
PREFIX = (
    f"set -euo pipefail; export GRACE_WORKFLOW=$PPID GRACE_CANCELLED={shlex.quote(CANCELLED)}"
    f" GRACE_GPUS={shlex.quote(json.dumps(GPUS))}"
    f" PYTHONPATH={shlex.quote(str(workflow.basedir))}${{PYTHONPATH:+:$PYTHONPATH}}; "
    + ("" if CONFIG.resources.adapt_threads else "export GRACE_THREADS=fixed; ")
)
shell.prefix(PREFIX.replace("{", "{{").replace("}", "}}"))  # Snakemake formats it

# Jobs of one machine share no GPU: unless --resources gpu=N says otherwise, all that run at once get as many as one training.
# On a cluster the scheduler hands out GPUs: a resource of local scope bounds each job, not all of them together.
if CONFIG.resources.gpus and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", CONFIG.resources.gpus)

    resource_scopes:
        gpu="local",


if GPUS and CONFIG.resources.memory_mb is None and not is_known(CONFIG):
    print(
        "the size of the language model or the vision tower is not known before it is fetched, so jobs may ask for too little "
        "main memory: set resources.memory_mb on a cluster",
        file=sys.stderr,
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
    """What a job asks of a scheduler, MB: as much more with every further attempt, after a kill for memory."""
    return lambda wildcards, attempt: attempt * mb


def start_from(wildcards):
    """The model folder that a scheme starts from, or none."""
    choice = CONFIG.train.for_scheme(wildcards.scheme).start_from
    if choice == "captioner":
        return f"{DATA}/captioner"
    if choice == "atomic" and "train_model" in workflow.dag_settings.until:
        # Snakemake (9.27) starts no job that depends on a job of the rule that --until names
        raise WorkflowError("--until train_model cannot train a scheme that starts from another; run `snakemake train`")
    return f"{DATA}/atomic/seed{wildcards.seed}/model" if choice == "atomic" else []


def benchmark_of_decoding(wildcards):
    """The file of `make bench` that the page shows, if there is one."""
    named = CONFIG.report.benchmark
    found = f"{OUTPUT}/decoding_benchmark.json"
    return [named] if named else [found] if os.path.exists(found) else []


def teacher(wildcards):
    """The tower whose answers a scheme learns from, or none."""
    return f"{DATA}/tower" if CONFIG.train.for_scheme(wildcards.scheme).distillation else []


def everything(*files):
    """The input of a target rule: these files.

    A target makes nothing itself, so with `--until TARGET` or `-R TARGET` Snakemake would find nothing to do.
    """

    def wanted(wildcards):
        asked = workflow.dag_settings
        for option, named in (("--until", asked.until), ("--omit-from", asked.omit_from), ("-R", asked.forcerun)):
            for target in sorted(TARGETS.keys() & named):
                said = f"snakemake {target}" if option == "--until" else f"snakemake {option} {TARGETS[target]}"
                raise WorkflowError(f"{option} {target}: `{target}` is a target and no job of its own; run `{said}`")
        return files

    return wanted


# {target: the rule that makes its files}
TARGETS = {
    "data": "dataset",
    "identifiers": "assign_identifiers",
    "trie": "build_trie",
    "train": "train_model",
    "retrieve": "retrieve_images",
    "evaluate": "evaluate_system",
}


def keep_outputs():
    """Before the first job: keep the outputs that this run is going to replace, until there are new ones."""
    try:
        set_aside(output for job in workflow.dag.needrun_jobs() for output in job.output)
    except GraceError as error:
        raise WorkflowError(str(error)) from None


def restore_outputs():
    """After the last job: a stage that failed has its last good outputs again, marked as incomplete, so that it is run again.

    Without the mark Snakemake would take them for what the failed job was to make: it records a failed job like any other.
    """
    for job in workflow.dag.needrun_jobs(exclude_finished=False):
        if any([put_back(output) for output in job.output]):
            workflow.persistence.started(job)


def photos(wildcards):
    """A digest of the user's own folder of photos: what is in it decides whether the stage `dataset` runs again."""
    folder = CONFIG.dataset.folder
    try:
        return listing_digest(Path(folder.images), Path(OUTPUT), folder.captions == "sidecar")
    except GraceError as error:
        raise WorkflowError(f"dataset.folder: {error}") from None
