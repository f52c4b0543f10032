# Stage baseline: the dual encoder with FAISS flat search, on the same queries.
rule baseline:
    input:
        dataset=rules.dataset.output[0],
        embeddings=rules.encode.output[0],
        tower=rules.tower.output[0],
    output:
        run=f"{DATA}/baseline/run.trec",
        retrieval=f"{DATA}/baseline/retrieval.json",
    log:
        f"{LOGS}/baseline/retrieve.log",
    benchmark:
        f"{TIMES}/baseline/baseline.tsv"
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        **resources_of("baseline", MEMORY["baseline"]),
    params:
        **params_of("baseline"),
        folder=subpath(output.run, parent=True),
    message:
        SHOWN
    shell:
        stage_command(
            "baseline --dataset {input.dataset:q} --embeddings {input.embeddings:q} --tower {input.tower:q}"
            " --output {params.folder:q} {params.settings}"
        )
