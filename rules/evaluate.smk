# Stages evaluate (one system's run, tested against the baseline's) and metrics (the rows of all systems).
rule evaluate_system:
    input:
        dataset=rules.dataset.output[0],
        run=f"{DATA}/{{system}}/run.trec",
        retrieval=f"{DATA}/{{system}}/retrieval.json",
        baseline=lambda wildcards: [] if wildcards.system == "baseline" else rules.baseline.output.run,
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
        mem_mb=memory(2000),
    params:
        baseline=lambda wildcards: "" if wildcards.system == "baseline" else "--baseline",
        settings=as_json(section=CONFIG.evaluate),
        stage_version=STAGES["evaluate"],
    shell:
        "python -m grace evaluate --dataset {input.dataset:q} --run {input.run:q} --retrieval {input.retrieval:q}"
        " {params.baseline} {input.baseline:q} --output {output.metrics:q} --settings {params.settings:q} > {log:q} 2>&1 || python -m grace ended $? {log:q}"


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
        mem_mb=memory(1000),
    params:
        stage_version=STAGES["metrics"],
    shell:
        "python -m grace metrics {input.metrics:q} --output {output:q} > {log:q} 2>&1 || python -m grace ended $? {log:q}"
