# Stages evaluate (one system's run, tested against the baseline's) and metrics (the rows of all systems).
rule evaluate:
    input:
        dataset=rules.dataset.output,
        run=f"{DATA}/{{system}}/run.trec",
        retrieval=f"{DATA}/{{system}}/retrieval.json",
        baseline=lambda wildcards: [] if wildcards.system == "baseline" else rules.baseline.output.run,
    output:
        f"{DATA}/{{system}}/metrics.json",
    log:
        f"{LOGS}/{{system}}/evaluate.log",
    benchmark:
        f"{TIMES}/{{system}}/evaluate.tsv"
    params:
        baseline=lambda wildcards: "" if wildcards.system == "baseline" else "--baseline",
        settings=as_json(section=CONFIG.evaluate),
        stage_version=STAGES["evaluate"],
    threads: 1
    resources:
        mem_mb=2000,
    conda:
        "../envs/infer.yaml"
    shell:
        "python -m grace evaluate --dataset {input.dataset:q} --run {input.run:q} --retrieval {input.retrieval:q}"
        " {params.baseline} {input.baseline:q} --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"


rule metrics:
    input:
        expand(f"{DATA}/{{system}}/metrics.json", system=SYSTEMS),
    output:
        f"{OUTPUT}/metrics.json",
    log:
        f"{LOGS}/metrics.log",
    benchmark:
        f"{TIMES}/metrics.tsv"
    params:
        stage_version=STAGES["metrics"],
    threads: 1
    resources:
        mem_mb=1000,
    conda:
        "../envs/infer.yaml"
    shell:
        "python -m grace metrics {input:q} --output {output:q} > {log:q} 2>&1"
