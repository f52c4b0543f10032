# Stages dataset and tokenizer.
KARPATHY = CONFIG.dataset.karpathy

if CONFIG.dataset.source == "karpathy":

    rule dataset:
        input:
            json_file=KARPATHY.json_file,
        output:
            directory(f"{DATA}/dataset"),
        log:
            f"{LOGS}/dataset.log",
        benchmark:
            f"{TIMES}/dataset.tsv"
        conda:
            "../envs/infer.yaml"
        threads: 1
        resources:
            mem_mb=memory(4000),
        params:
            # a folder of photos is no input: its time stamp says nothing about the photos
            images=KARPATHY.images,
            name=CONFIG.dataset.name,
            settings=as_json(section=KARPATHY),
            stage_version=STAGES["dataset"],
        shell:
            "python -m grace dataset karpathy --json {input.json_file:q} --images {params.images:q} --name {params.name:q}"
            " --output {output:q} --settings {params.settings:q} > {log:q} 2>&1 || python -m grace ended $? {log:q}"

else:

    rule dataset:
        output:
            directory(f"{DATA}/dataset"),
        log:
            f"{LOGS}/dataset.log",
        benchmark:
            f"{TIMES}/dataset.tsv"
        conda:
            "../envs/infer.yaml"
        threads: 1
        resources:
            mem_mb=memory(2000),
        params:
            name=CONFIG.dataset.name,
            settings=as_json(section=CONFIG.dataset.scenes),
            stage_version=STAGES["dataset"],
        shell:
            "python -m grace dataset scenes --name {params.name:q} --output {output:q} --settings {params.settings:q}"
            " > {log:q} 2>&1 || python -m grace ended $? {log:q}"


rule tokenizer:
    input:
        dataset=rules.dataset.output[0],
    output:
        directory(f"{DATA}/tokenizer"),
    log:
        f"{LOGS}/tokenizer.log",
    benchmark:
        f"{TIMES}/tokenizer.tsv"
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
    params:
        settings=as_json(section=CONFIG.flamingo),
        stage_version=STAGES["tokenizer"],
    shell:
        "python -m grace tokenizer --dataset {input.dataset:q} --output {output:q} --settings {params.settings:q}"
        " > {log:q} 2>&1 || python -m grace ended $? {log:q}"
