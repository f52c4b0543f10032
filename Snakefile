# GRACE: from images and captions to a Recall table. Reads config.yaml and the overlays given by --configfile.
#
#   snakemake --cores all                                    everything, up to the report
#   snakemake --cores all identifiers                        everything up to one stage
#   snakemake --cores all train -R train_model               one stage again
#   snakemake --cores all --configfile config/flickr30k.yaml another data set and model
#   snakemake --cores all --use-conda                        the same in the environments of envs/
from snakemake.utils import min_version

min_version("9.27")


configfile: f"{workflow.basedir}/config.yaml"


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


# Targets: everything up to a stage. `all` names every output, not only the report's: Snakemake takes a missing file whose products
# are up to date for one that nobody needs, so a model would stay missing after `snakemake -R train_model` was killed.
IDENTIFIERS = expand(rules.assign_identifiers.output, scheme=CONFIG.trained_schemes, seed=CONFIG.seeds)
TRIES = expand(rules.build_trie.output, scheme=CONFIG.schemes, seed=CONFIG.seeds)
MODELS = expand(rules.train_model.output, scheme=CONFIG.trained_schemes, seed=CONFIG.seeds)
RUNS = expand(rules.retrieve_images.output, scheme=CONFIG.schemes, seed=CONFIG.seeds)
SCORES = expand(rules.evaluate_system.output, system=[*SYSTEMS, *FOREIGN])


rule all:
    default_target: True
    input:
        everything(
            *rules.dataset.output,
            *rules.tokenizer.output,
            *rules.tower.output,
            *rules.encode.output,
            *(rules.captioner.output if CONFIG.captioner_is_read else []),
            *rules.pseudo_queries.output,
            *IDENTIFIERS,
            *TRIES,
            *MODELS,
            *RUNS,
            *rules.baseline.output,
            *SCORES,
            *rules.metrics.output,
            *rules.report.output,
        ),


rule data:
    input:
        everything(*rules.dataset.output),


rule identifiers:
    input:
        everything(*IDENTIFIERS),


rule trie:
    input:
        everything(*TRIES),


rule train:
    input:
        everything(*MODELS),


rule retrieve:
    input:
        everything(*RUNS),


rule evaluate:
    input:
        everything(*SCORES),


onstart:
    set_back = no_times_to_come(OUTPUT)
    if set_back:
        print(
            f"{set_back} files in {OUTPUT} were dated later than now: the clock ran ahead; they have the time of now"
        )
    forget_cancelled(CANCELLED)
    keep_outputs()


onsuccess:
    restore_outputs()
    if any(job.name == "report" for job in workflow.dag.jobs):
        print(f"report: {OUTPUT}/report/index.html")


onerror:
    restore_outputs()
