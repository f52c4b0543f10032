# Stages tower and encode: the vision tower, and the embeddings of every image.
rule tower:
    input:
        dataset=rules.dataset.output[0],
        weights=own_files(CONFIG, "tower"),
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
        **resources_of("tower", MEMORY["tower"]),
    params:
        **params_of("tower"),
    message:
        SHOWN
    shell:
        stage_command("tower --dataset {input.dataset:q} --output {output:q} {params.settings}")


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
        **resources_of("encode", MEMORY["encode"]),
    params:
        **params_of("encode"),
    message:
        SHOWN
    shell:
        stage_command(
            "encode --dataset {input.dataset:q} --tower {input.tower:q} --output {output:q} {params.settings}"
        )
