# Stages evaluate (one system's run, tested against the baseline's) and metrics (the rows of all systems).
rule evaluate_system:
    input:
        dataset=rules.dataset.output[0],
        run=f"{DATA}/{{system}}/run.trec",
        retrieval=f"{DATA}/{{system}}/retrieval.json",
        baseline=lambda wildcards: [] if wildcards.system == "baseline" else f"{DATA}/baseline/run.trec",
    output:
        metrics=f"{DATA}/{{system}}/metrics.json",
        values=f"{DATA}/{{system}}/per_query.parquet",
    log:
        f"{LOGS}/{{system}}/evaluate.log",
    benchmark:
        f"{TIMES}/{{system}}/evaluate.tsv"
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        **resources_of("evaluate", 2000),
    params:
        **params_of("evaluate"),
        baseline=options("baseline"),
    shell:
        stage_command(
            "evaluate --dataset {input.dataset:q} --run {input.run:q} --retrieval {input.retrieval:q} {params.baseline}"
            " --output {output.metrics:q} {params.settings}"
        )


rule metrics:
    input:
        metrics=expand(f"{DATA}/{{system}}/metrics.json", system=SYSTEMS),
        values=expand(f"{DATA}/{{system}}/per_query.parquet", system=SYSTEMS),
    output:
        f"{OUTPUT}/metrics.json",
    log:
        f"{LOGS}/metrics.log",
    benchmark:
        f"{TIMES}/metrics.tsv"
    localrule: True  # less than a second: no reason to wait for a scheduler
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        **resources_of("metrics", 1000),
    params:
        **params_of("metrics"),
    shell:
        stage_command("metrics {input.metrics:q} --output {output:q}")
