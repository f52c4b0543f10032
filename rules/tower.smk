# Stages tower and encode: the vision tower, and every image once through it.
rule tower:
    input:
        dataset=rules.dataset.output,
    output:
        directory(f"{DATA}/tower"),
    log:
        f"{LOGS}/tower.log",
    benchmark:
        f"{TIMES}/tower.tsv"
    params:
        settings=part(CONFIG.tower, "kind", CONFIG.tower.kind),
        stage_version=STAGES["tower"],
    threads: ALONE
    resources:
        mem_mb=4000,
        gpu=GPU,
    conda:
        "../envs/train.yaml"
    shell:
        "python -m grace tower --dataset {input.dataset:q} --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"


rule encode:
    input:
        dataset=rules.dataset.output,
        tower=rules.tower.output,
    output:
        directory(f"{DATA}/embeddings"),
    log:
        f"{LOGS}/encode.log",
    benchmark:
        f"{TIMES}/encode.tsv"
    params:
        settings=part(CONFIG.tower, "kind", CONFIG.tower.kind, "encode_batch"),
        stage_version=STAGES["encode"],
    threads: ALONE
    resources:
        mem_mb=4000,
        gpu=GPU,
    conda:
        "../envs/train.yaml"
    shell:
        "python -m grace encode --dataset {input.dataset:q} --tower {input.tower:q} --output {output:q}"
        " --settings {params.settings:q} > {log:q} 2>&1"
