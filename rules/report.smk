# Stage report: one HTML file. It reads every result, and the whole configuration that they came from.
rule resolve:
    output:
        f"{OUTPUT}/config.json",
    log:
        f"{LOGS}/resolve.log",
    params:
        settings=json.dumps(CONFIG.model_dump(mode="json"), sort_keys=True),
    threads: 1
    resources:
        mem_mb=1000,
    conda:
        "../envs/infer.yaml"
    shell:
        "python -m grace resolve --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"


rule report:
    input:
        config=rules.resolve.output,
        metrics=rules.metrics.output,
        dataset=rules.dataset.output,
        runs=expand(f"{DATA}/{{system}}/run.trec", system=SYSTEMS),
        models=expand(rules.train.output, scheme=CONFIG.schemes, seed=CONFIG.seeds),
        identifiers=expand(rules.identifiers.output, scheme=CONFIG.schemes, seed=CONFIG.seeds),
    output:
        f"{OUTPUT}/report/index.html",
    log:
        f"{LOGS}/report.log",
    params:
        results=lambda wildcards, input: os.path.dirname(input.metrics),
        settings=as_json(section=CONFIG.report),
        stage_version=STAGES["report"],
    threads: 1
    resources:
        mem_mb=2000,
    conda:
        "../envs/infer.yaml"
    shell:
        "python -m grace report --config {input.config:q} --results {params.results:q} --output {output:q}"
        " --settings {params.settings:q} > {log:q} 2>&1"
