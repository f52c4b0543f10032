# Stages captioner and pseudo_queries: captions of the gallery images, written by a model, borrowed, or read from a file.
rule captioner:
    input:
        dataset=rules.dataset.output[0],
        tokenizer=rules.tokenizer.output[0],
        embeddings=rules.encode.output[0],
        weights=own_files(CONFIG, "captioner"),
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
        **resources_of("captioner", MEMORY["captioner"]),
    params:
        **params_of("captioner"),
        launch=launcher(CONFIG),
        # resumable state is not an output: Snakemake deletes the outputs of a job that fails
        state=beside_with("_state"),
    message:
        SHOWN
    shell:
        stage_command(
            "captioner --dataset {input.dataset:q} --tokenizer {input.tokenizer:q} --embeddings {input.embeddings:q}"
            " --output {output:q} --state {params.state:q} {params.settings}",
            launch=True,
        )


rule pseudo_queries:
    input:
        unpack(read_for_pseudo_queries),
        dataset=rules.dataset.output[0],
    output:
        directory(f"{DATA}/pseudo_queries"),
    log:
        f"{LOGS}/pseudo_queries.log",
    benchmark:
        f"{TIMES}/pseudo_queries.tsv"
    conda:
        "../envs/infer.yaml"
    threads: 1 if CONFIG.pseudo_queries.source == "file" else ALONE
    resources:
        **resources_of("pseudo_queries", 2000 if CONFIG.pseudo_queries.source == "file" else MEMORY["pseudo_queries"]),
    params:
        **params_of("pseudo_queries"),
        read=options("embeddings", "captioner", "tower"),
        val=VAL,
    message:
        SHOWN
    shell:
        stage_command(
            "pseudo_queries --dataset {input.dataset:q} {params.read} --output {output:q} {params.val} {params.settings}"
        )
