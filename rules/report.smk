# Stage report: one HTML file of every result, and beside it the whole configuration that they came from.
rule report:
    input:
        metrics=rules.metrics.output[0],
        dataset=rules.dataset.output[0],
        embeddings=rules.encode.output[0],
        runs=expand(f"{DATA}/{{system}}/run.trec", system=SYSTEMS),
        foreign=lambda wildcards: list(FOREIGN.values()),
        models=expand(rules.train_model.output, scheme=CONFIG.schemes, seed=CONFIG.seeds),
        identifiers=expand(rules.assign_identifiers.output, scheme=CONFIG.schemes, seed=CONFIG.seeds),
        benchmark=benchmark_of_decoding,
    output:
        page=f"{OUTPUT}/report/index.html",
        config=f"{OUTPUT}/report/config.json",
    log:
        f"{LOGS}/report.log",
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
    params:
        results=lambda wildcards, input: os.path.dirname(input.metrics),
        config=json.dumps(CONFIG.model_dump(mode="json"), sort_keys=True),
        settings=as_json(section=CONFIG.report),
        stage_version=STAGES["report"],
    shell:
        "(python -m grace resolve --output {output.config:q} --settings {params.config:q} &&"
        " python -m grace report --config {output.config:q} --results {params.results:q} --output {output.page:q}"
        " --settings {params.settings:q}) > {log:q} 2>&1 || python -m grace ended $? {log:q}"
