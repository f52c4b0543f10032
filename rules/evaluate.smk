# Stages evaluate (one system's run, tested against the baseline's) and metrics (one list with the rows of all systems).
from grace.rules.runs import described_by, foreign_systems, retrieval_of, run_of

FOREIGN = foreign_systems(CONFIG)
EVALUATED = [*SYSTEMS, *FOREIGN]


rule evaluate_system:
    input:
        dataset=rules.dataset.output[0],
        run=run_of(CONFIG, DATA),
        retrieval=retrieval_of(DATA),
        baseline=lambda wildcards: [] if wildcards.system == "baseline" else f"{DATA}/baseline/run.trec",
    output:
        metrics=f"{DATA}/{{system}}/metrics.json",
        values=f"{DATA}/{{system}}/per_query.parquet",
    log:
        f"{LOGS}/{{system}}/evaluate.log",
    benchmark:
        f"{TIMES}/{{system}}/evaluate.tsv"
    wildcard_constraints:
        system=rf"baseline|({'|'.join(SCHEMES)})/seed\d+|runs/[A-Za-z0-9_-]+",
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        **resources_of("evaluate", 2000),
    params:
        **params_of("evaluate"),
        report=described_by,
        baseline=options("baseline"),
    message:
        SHOWN
    shell:
        stage_command(
            "evaluate --dataset {input.dataset:q} --run {input.run:q} {params.report} {params.baseline}"
            " --output {output.metrics:q} {params.settings}"
        )


rule metrics:
    input:
        metrics=expand(f"{DATA}/{{system}}/metrics.json", system=EVALUATED),
        values=expand(f"{DATA}/{{system}}/per_query.parquet", system=EVALUATED),
    output:
        f"{OUTPUT}/metrics.json",
    log:
        f"{LOGS}/metrics.log",
    benchmark:
        f"{TIMES}/metrics.tsv"
    localrule: True  # takes less than a second, so it does not wait for a scheduler
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        **resources_of("metrics", 1000),
    params:
        **params_of("metrics"),
    message:
        SHOWN
    shell:
        stage_command("metrics {input.metrics:q} --output {output:q}")
