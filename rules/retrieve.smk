# Stage retrieve: from test captions to a TREC run, decoding under the trie.
rule retrieve_images:
    input:
        dataset=rules.dataset.output[0],
        embeddings=rules.encode.output[0],
        identifiers=rules.assign_identifiers.output[0],
        trie=rules.build_trie.output[0],
        model=rules.train_model.output[0],
    output:
        run=f"{RUN}/run.trec",
        retrieval=f"{RUN}/retrieval.json",
        certificates=f"{RUN}/certificates.parquet",
    log:
        f"{LOGS}/{{scheme}}/seed{{seed}}/retrieve.log",
    benchmark:
        f"{TIMES}/{{scheme}}/seed{{seed}}/retrieve.tsv"
    conda:
        "../envs/infer.yaml"
    threads: THREADS
    resources:
        **resources_of("retrieve", MEMORY["retrieve"]),
    params:
        **params_of("retrieve"),
        folder=subpath(output.run, parent=True),
    message:
        SHOWN
    shell:
        stage_command(
            "retrieve --dataset {input.dataset:q} --embeddings {input.embeddings:q} --identifiers {input.identifiers:q}"
            " --trie {input.trie:q} --model {input.model:q} --output {params.folder:q} {params.settings}"
        )
