# Stages evaluate (one system's run, tested against the baseline's) and metrics (the rows of all systems).
# Runs of other methods are systems `runs/NAME`: their run is the user's file, and there is no retrieval report of it.
FOREIGN = {f"runs/{name}": path for name, path in CONFIG.runs.items()}


rule evaluate_system:
    input:
        dataset=rules.dataset.output[0],
        run=lambda wildcards: FOREIGN.get(wildcards.system, f"{DATA}/{wildcards.system}/run.trec"),
        retrieval=lambda wildcards: [] if wildcards.system in FOREIGN else f"{DATA}/{wildcards.system}/retrieval.json",
        baseline=lambda wildcards: [] if wildcards.system == "baseline" else rules.baseline.output.run,
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
        mem_mb=memory(2000),
    params:
        # of the input, so not among the parameters whose change reruns the stage
        about=lambda wildcards, input: (
            f"--retrieval {shlex.quote(str(input.retrieval))}"
            if input.retrieval
            else f"--name {wildcards.system.removeprefix('runs/')}"
        ),
        baseline=lambda wildcards: "" if wildcards.system == "baseline" else "--baseline",
        settings=as_json(section=CONFIG.evaluate),
        stage_version=STAGES["evaluate"],
    shell:
        "python -m grace evaluate --dataset {input.dataset:q} --run {input.run:q} {params.about}"
        " {params.baseline} {input.baseline:q} --output {output.metrics:q} --settings {params.settings:q} > {log:q} 2>&1 || python -m grace ended $? {log:q}"


rule metrics:
    input:
        metrics=expand(f"{DATA}/{{system}}/metrics.json", system=[*SYSTEMS, *FOREIGN]),
        values=expand(f"{DATA}/{{system}}/per_query.parquet", system=[*SYSTEMS, *FOREIGN]),
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
