# Stage train: one model a scheme and seed. A model that starts from another one's weights has that one as an input.
rule train_model:
    input:
        dataset=rules.dataset.output[0],
        tokenizer=rules.tokenizer.output[0],
        embeddings=rules.encode.output[0],
        pseudo_queries=rules.pseudo_queries.output[0],
        identifiers=rules.assign_identifiers.output[0],
        start_from=start_from,
        tower=teacher,
        weights=read_by(CONFIG, "train"),
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
        mem_mb=memory(MEMORY["train"]),
        gpu=GPUS.get("train", 0),
    params:
        launch=LAUNCH,
        # resumable state is no output: Snakemake deletes the outputs of a job that fails
        state=f"{RUN}/training_state",
        start_from=lambda wildcards: "--start-from" if start_from(wildcards) else "",
        tower=lambda wildcards: "--tower" if teacher(wildcards) else "",
        settings=lambda wildcards: as_json(
            flamingo=CONFIG.flamingo,
            training=CONFIG.train.for_scheme(wildcards.scheme),
            atomic_head=CONFIG.train.atomic_head,
        ),
        stage_version=STAGES["train"],
    shell:
        "{params.launch} -m grace train --scheme {wildcards.scheme} --seed {wildcards.seed} --dataset {input.dataset:q}"
        " --tokenizer {input.tokenizer:q} --embeddings {input.embeddings:q} --pseudo-queries {input.pseudo_queries:q}"
        " --identifiers {input.identifiers:q} {params.start_from} {input.start_from:q} {params.tower} {input.tower:q} --output {output:q}"
        " --state {params.state:q} --settings {params.settings:q} > {log:q} 2>&1 || python -m grace ended $? {log:q}"
