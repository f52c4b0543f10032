# Stage train: one model per scheme and seed. A model that starts from another model's weights has that model as an input.
rule train_model:
    input:
        dataset=rules.dataset.output[0],
        tokenizer=rules.tokenizer.output[0],
        embeddings=rules.encode.output[0],
        pseudo_queries=rules.pseudo_queries.output[0],
        identifiers=rules.assign_identifiers.output[0],
        start_from=start_from,
        tower=teacher,
        weights=own_files(CONFIG, "train"),
    output:
        directory(f"{RUN}/model"),
    log:
        f"{LOGS}/{{scheme}}/seed{{seed}}/train.log",
    benchmark:
        f"{TIMES}/{{scheme}}/seed{{seed}}/train.tsv"
    conda:
        "../envs/train.yaml"
    threads: THREADS
    resources:
        **resources_of("train", MEMORY["train"]),
    params:
        **params_of("train", by_scheme=True),
        launch=launcher(CONFIG),
        # resumable state is not an output: Snakemake deletes the outputs of a job that fails
        state=beside("training_state"),
        begin=options("start_from", "tower"),
    message:
        SHOWN
    shell:
        stage_command(
            "train --scheme {wildcards.scheme} --seed {wildcards.seed} --dataset {input.dataset:q}"
            " --tokenizer {input.tokenizer:q} --embeddings {input.embeddings:q} --pseudo-queries {input.pseudo_queries:q}"
            " --identifiers {input.identifiers:q} {params.begin} --output {output:q} --state {params.state:q} {params.settings}",
            launch=True,
        )
