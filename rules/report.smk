# Stage report: one HTML file with all results, and next to it the complete configuration of the run.
rule configuration:
    output:
        f"{OUTPUT}/report/config.json",
    log:
        f"{LOGS}/configuration.log",
    localrule: True
    conda:
        "../envs/infer.yaml"
    resources:
        **resources_of("configuration", 1000),
    params:
        **params_of("configuration"),
    message:
        SHOWN
    shell:
        stage_command("resolve --output {output:q} {params.settings}")


rule report:
    input:
        metrics=rules.metrics.output[0],
        dataset=rules.dataset.output[0],
        embeddings=rules.encode.output[0],
        runs=expand(f"{DATA}/{{system}}/run.trec", system=SYSTEMS),
        models=expand(f"{RUN}/model", scheme=CONFIG.schemes, seed=CONFIG.seeds),
        identifiers=expand(f"{RUN}/identifiers", scheme=CONFIG.schemes, seed=CONFIG.seeds),
        config=rules.configuration.output[0],
        given=own_files(CONFIG, "report"),
    output:
        page=report(f"{OUTPUT}/report/index.html", caption="captions/page.rst", category="Report"),
        table=report(f"{OUTPUT}/report/table.csv", caption="captions/table.rst", category="Results"),
        figure=report(f"{OUTPUT}/report/recall.svg", caption="captions/recall.rst", category="Results"),
    log:
        f"{LOGS}/report.log",
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        **resources_of("report", 2000),
    params:
        **params_of("report"),
        results=subpath(input.metrics, parent=True),
        decoding=stamp_of("decoding_benchmark.json"),
    message:
        SHOWN
    shell:
        stage_command(
            "report --config {input.config:q} --results {params.results:q} --output {output.page:q} {params.settings}"
        )
