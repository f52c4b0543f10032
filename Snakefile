# GRACE: from images and captions to a Recall table. Reads config.yaml and the files given by --configfile.
#
#   snakemake --cores all                                    everything, up to the report
#   snakemake --cores all identifiers                        everything up to one stage
#   snakemake --cores all train -R train_model               one stage again
#   snakemake --cores all --configfile config/flickr30k.yaml another data set and model
#   snakemake --cores all --use-conda                        in the conda environments of envs/
#   snakemake --cores all --software-deployment-method apptainer   in the container of envs/grace.def
from snakemake.utils import min_version

min_version("9.27")


configfile: f"{workflow.current_basedir}/config.yaml"


# Used with --software-deployment-method apptainer. Build it with: apptainer build envs/grace.sif envs/grace.def
container: f"{workflow.current_basedir}/envs/grace.sif"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/tower.smk"
include: "rules/captioner.smk"
include: "rules/identifiers.smk"
include: "rules/train.smk"
include: "rules/retrieve.smk"
include: "rules/baseline.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/targets.smk"


# The default target. It must be in this file, because rules of included files cannot be the default, and marking one with
# default_target would replace the default of a workflow that imports this one.
# It lists every output, not only the report's: Snakemake does not remake a missing file if everything made from it is up to date,
# so a model would stay missing after `snakemake -R train_model` was killed.
rule all:
    input:
        up_to("all", "report", EVERYTHING),
    message:
        job_message(workflow, "all: everything is made")


onstart:
    before_first_job(workflow, OUTPUT)


onsuccess:
    after_last_job(workflow)
    if any(job.name == "report" for job in workflow.dag.jobs):
        print(f"report: {OUTPUT}/report/index.html")


onerror:
    after_last_job(workflow)
