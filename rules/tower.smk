# Stages tower and encode: the vision tower, and every image once through it.
rule tower:
    input:
        dataset=rules.dataset.output[0],
        weights=read_by(CONFIG, "tower"),
    output:
        directory(f"{DATA}/tower"),
    log:
        f"{LOGS}/tower.log",
    benchmark:
        f"{TIMES}/tower.tsv"
    conda:
        "../envs/train.yaml"
    threads: ALONE
    resources:
        mem_mb=memory(MEMORY["tower"]),
        gpu=GPUS.get("tower", 0),
    params:
        settings=part(CONFIG.tower, "kind", CONFIG.tower.kind),
        stage_version=STAGES["tower"],
    shell:
        "python -m grace tower --dataset {input.dataset:q} --output {output:q} --settings {params.settings:q} > {log:q} 2>&1 || python -m grace ended $? {log:q}"


rule encode:
    input:
        dataset=rules.dataset.output[0],
        tower=rules.tower.output[0],
    output:
        directory(f"{DATA}/embeddings"),
    log:
        f"{LOGS}/encode.log",
    benchmark:
        f"{TIMES}/encode.tsv"
    conda:
        "../envs/train.yaml"
    threads: ALONE
    resources:
        mem_mb=memory(MEMORY["encode"]),
        gpu=GPUS.get("encode", 0),
    params:
        settings=part(CONFIG.tower, "kind", CONFIG.tower.kind, "encode_batch"),
        stage_version=STAGES["encode"],
    shell:
        "python -m grace encode --dataset {input.dataset:q} --tower {input.tower:q} --output {output:q}"
        " --settings {params.settings:q} > {log:q} 2>&1 || python -m grace ended $? {log:q}"
