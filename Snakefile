# GRACE: from images and captions to a Recall table. Reads config.yaml and the overlays given by --configfile.
#
#   snakemake --cores all                                    everything, up to the report
#   snakemake --cores all --until identifiers                everything up to one stage
#   snakemake --cores all -R train --until train             one stage again
#   snakemake --cores all evaluate                           everything up to one stage, by its name
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


rule all:
    default_target: True
    input:
        wanted,


rule data:
    input:
        rules.dataset.output,


onstart:
    set_back = no_times_to_come(OUTPUT)
    if set_back:
        print(
            f"{set_back} files in {OUTPUT} were dated later than now: the clock ran ahead; they have the time of now"
        )


onsuccess:
    if not workflow.dag_settings.until:
        print(f"report: {OUTPUT}/report/index.html")
