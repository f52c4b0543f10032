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
        mem_mb=memory(MEMORY["baseline"]),
        gpu=GPUS.get("baseline", 0),
    params:
        folder=lambda wildcards, output: os.path.dirname(output.run),
        settings=part(CONFIG.retrieve, "depth", "batch_size"),
        stage_version=STAGES["baseline"],
    shell:
        "python -m grace baseline --dataset {input.dataset:q} --embeddings {input.embeddings:q} --tower {input.tower:q}"
        " --output {params.folder:q} --settings {params.settings:q} > {log:q} 2>&1 || python -m grace ended $? {log:q}"
