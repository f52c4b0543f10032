# What all rules share: the checked configuration, paths, and a stage's params and resources.
import sys
from functools import partial

from snakemake.exceptions import WorkflowError

from grace.plan.host import host_memory, is_known
from grace.rules.commands import launcher, stage_command, stage_params, stage_resources
from grace.rules.hooks import after_last_job, before_first_job, job_message, refuse_until, targets
from grace.rules.inputs import as_they_are, beside, beside_with, karpathy_files, options, own_files, photos, stamp_of
from grace.rules.planned import how_jobs_run, is_main, planned_configuration
from grace.system.errors import GraceError
from grace.workflow.schemes import SCHEMES

try:
    CONFIG, JOBS = planned_configuration(workflow, config), how_jobs_run(workflow)
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
MEMORY = host_memory(CONFIG)  # of every stage that loads a model, MB
VAL = "--val" if CONFIG.train.validate_every else ""  # validation needs val images that the model has memorised

params_of = partial(stage_params, CONFIG, JOBS)
resources_of = partial(stage_resources, CONFIG, JOBS)
up_to = targets(workflow)
SHOWN = job_message(workflow)

# Jobs on one machine never share a GPU: unless --resources gpu=N says otherwise, all jobs that run at once get as many GPUs as one
# training. On a cluster the scheduler assigns GPUs: a resource of local scope limits each job, not all of them together. A workflow
# that imports this one sets its own limit.
if CONFIG.resources.gpus and is_main(workflow) and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", CONFIG.resources.gpus)

    resource_scopes:
        gpu="local",


if CONFIG.resources.gpus and CONFIG.resources.memory_mb is None and not is_known(CONFIG):
    print(
        "the size of the language model or the vision tower is not known before it is downloaded, so jobs may request too little "
        "main memory: set resources.memory_mb on a cluster",
        file=sys.stderr,
    )


wildcard_constraints:
    scheme="|".join(SCHEMES),
    seed=r"\d+",
    system=rf"baseline|({'|'.join(SCHEMES)})/seed\d+",


def start_from(wildcards):
    """The model folder that a scheme starts from, or none."""
    choice = CONFIG.train.for_scheme(wildcards.scheme).start_from
    if choice == "atomic":
        refuse_until(workflow, "train_model")
    places = {"captioner": f"{DATA}/captioner", "atomic": f"{DATA}/atomic/seed{wildcards.seed}/model"}
    return places.get(choice, [])


def teacher(wildcards):
    """The tower that a scheme is distilled from, or none."""
    return f"{DATA}/tower" if CONFIG.train.for_scheme(wildcards.scheme).distillation else []


def read_for_pseudo_queries(wildcards):
    """What pseudo-queries are made of: the captioner, the nearest train captions, or a file."""
    embeddings = {"embeddings": f"{DATA}/embeddings"}
    return {
        "captioner": {**embeddings, "captioner": f"{DATA}/captioner"},
        "nearest": {**embeddings, "tower": f"{DATA}/tower"},
        "file": {"file": as_they_are([CONFIG.pseudo_queries.file])},
    }[CONFIG.pseudo_queries.source]
