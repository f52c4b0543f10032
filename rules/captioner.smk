# Stages captioner and pseudo_queries: captions of the gallery images, written by a model or read from a file.
rule captioner:
    input:
        dataset=rules.dataset.output[0],
        tokenizer=rules.tokenizer.output[0],
        embeddings=rules.encode.output[0],
        weights=read_by(CONFIG, "captioner"),
    output:
        directory(f"{DATA}/captioner"),
    log:
        f"{LOGS}/captioner.log",
    benchmark:
        f"{TIMES}/captioner.tsv"
    conda:
        "../envs/train.yaml"
    threads: ALONE
    resources:
        mem_mb=memory(MEMORY["captioner"]),
        gpu=GPUS.get("captioner", 0),
    params:
        launch=LAUNCH,
        # resumable state is no output: Snakemake deletes the outputs of a job that fails
        state=f"{DATA}/captioner_state",
        settings=as_json(flamingo=CONFIG.flamingo, training=CONFIG.captioner),
        stage_version=STAGES["captioner"],
    shell:
        "{params.launch} -m grace captioner --dataset {input.dataset:q} --tokenizer {input.tokenizer:q}"
        " --embeddings {input.embeddings:q} --output {output:q} --state {params.state:q} --settings {params.settings:q}"
        " > {log:q} 2>&1 || python -m grace ended $? {log:q}"


if CONFIG.pseudo_queries.source == "captioner":

    rule pseudo_queries:
        input:
            dataset=rules.dataset.output[0],
            embeddings=rules.encode.output[0],
            captioner=rules.captioner.output[0],
        output:
            directory(f"{DATA}/pseudo_queries"),
        log:
            f"{LOGS}/pseudo_queries.log",
        benchmark:
            f"{TIMES}/pseudo_queries.tsv"
        conda:
            "../envs/infer.yaml"
        threads: ALONE
        resources:
            mem_mb=memory(MEMORY["pseudo_queries"]),
            gpu=GPUS.get("pseudo_queries", 0),
        params:
            settings=as_json(section=CONFIG.pseudo_queries),
            val=VAL,
            stage_version=STAGES["pseudo_queries"],
        shell:
            "python -m grace pseudo_queries --dataset {input.dataset:q} --embeddings {input.embeddings:q}"
            " --captioner {input.captioner:q} --output {output:q} {params.val} --settings {params.settings:q} > {log:q} 2>&1 || python -m grace ended $? {log:q}"

elif CONFIG.pseudo_queries.source == "nearest":

    rule pseudo_queries:
        input:
            dataset=rules.dataset.output[0],
            embeddings=rules.encode.output[0],
            tower=rules.tower.output[0],
        output:
            directory(f"{DATA}/pseudo_queries"),
        log:
            f"{LOGS}/pseudo_queries.log",
        benchmark:
            f"{TIMES}/pseudo_queries.tsv"
        conda:
            "../envs/infer.yaml"
        threads: ALONE
        resources:
            mem_mb=memory(MEMORY["pseudo_queries"]),
            gpu=GPUS.get("pseudo_queries", 0),
        params:
            settings=as_json(section=CONFIG.pseudo_queries),
            val=VAL,
            stage_version=STAGES["pseudo_queries"],
        shell:
            "python -m grace pseudo_queries --dataset {input.dataset:q} --embeddings {input.embeddings:q} --tower {input.tower:q}"
            " --output {output:q} {params.val} --settings {params.settings:q} > {log:q} 2>&1 || python -m grace ended $? {log:q}"

else:

    rule pseudo_queries:
        input:
            dataset=rules.dataset.output[0],
            file=CONFIG.pseudo_queries.file,
        output:
            directory(f"{DATA}/pseudo_queries"),
        log:
            f"{LOGS}/pseudo_queries.log",
        benchmark:
            f"{TIMES}/pseudo_queries.tsv"
        conda:
            "../envs/infer.yaml"
        threads: 1
        resources:
            mem_mb=memory(2000),
        params:
            settings=as_json(section=CONFIG.pseudo_queries),
            val=VAL,
            stage_version=STAGES["pseudo_queries"],
        shell:
            "python -m grace pseudo_queries --dataset {input.dataset:q} --output {output:q} {params.val} --settings {params.settings:q}"
            " > {log:q} 2>&1 || python -m grace ended $? {log:q}"
