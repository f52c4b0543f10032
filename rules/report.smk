# Stage report: one HTML file. It reads every result, and the whole configuration that they came from.
rule resolve:
    output:
        f"{OUTPUT}/config.json",
    log:
        f"{LOGS}/resolve.log",
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        settings=json.dumps(CONFIG.model_dump(mode="json"), sort_keys=True),
    shell:
        "python -m grace resolve --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"


rule report:
    input:
        config=rules.resolve.output[0],
        metrics=rules.metrics.output[0],
        dataset=rules.dataset.output[0],
        runs=expand(f"{DATA}/{{system}}/run.trec", system=SYSTEMS),
        models=expand(rules.train.output, scheme=CONFIG.schemes, seed=CONFIG.seeds),
        identifiers=expand(rules.identifiers.output, scheme=CONFIG.schemes, seed=CONFIG.seeds),
    output:
        f"{OUTPUT}/report/index.html",
    log:
        f"{LOGS}/report.log",
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        results=lambda wildcards, input: os.path.dirname(input.config),
        settings=as_json(section=CONFIG.report),
        stage_version=STAGES["report"],
    shell:
        "python -m grace report --config {input.config:q} --results {params.results:q} --output {output:q}"
        " --settings {params.settings:q} > {log:q} 2>&1"
