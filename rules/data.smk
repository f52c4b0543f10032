# Stages download, dataset and tokenizer.
KARPATHY = CONFIG.dataset.karpathy
FOLDER = CONFIG.dataset.folder
RECEIPT = f"{KARPATHY.data}/{KARPATHY.download}/download.json"

if CONFIG.dataset.source == "karpathy" and KARPATHY.fetched:

    rule download:
        output:
            # The receipt alone: Snakemake deletes the outputs of a job before it starts and when it fails, and the data may
            # have been placed by hand.
            ensure(RECEIPT, non_empty=True),
        log:
            f"{LOGS}/download.log",
        localrule: True
        conda:
            "../envs/infer.yaml"
        params:
            name=KARPATHY.download,
            data=KARPATHY.data,
        shell:
            "python -m grace download {params.name:q} --data {params.data:q} > {log:q} 2>&1"


if CONFIG.dataset.source == "karpathy":

    rule dataset:
        input:
            RECEIPT if KARPATHY.fetched else KARPATHY.json_file,
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
            json_file=KARPATHY.paths[0],
            images=KARPATHY.paths[1],
            name=CONFIG.dataset.name,
            settings=as_json(section=KARPATHY),
            stage_version=STAGES["dataset"],
        shell:
            "python -m grace dataset karpathy --json {params.json_file:q} --images {params.images:q} --name {params.name:q}"
            " --output {output:q} --settings {params.settings:q} > {log:q} 2>&1 || python -m grace ended $? {log:q}"

elif CONFIG.dataset.source == "folder":

    rule dataset:
        input:
            [FOLDER.captions] if FOLDER.captions not in ("", "sidecar") else [],
        output:
            directory(f"{DATA}/dataset"),
        log:
            f"{LOGS}/dataset.log",
        benchmark:
            f"{TIMES}/dataset.tsv"
        conda:
            "../envs/infer.yaml"
        threads: ALONE
        resources:
            mem_mb=memory(4000),
            gpu=GPUS.get("dataset", 0),
        params:
            # the folder of photos is no input, as above; what is in it is a parameter
            photos=photos,
            name=CONFIG.dataset.name,
            settings=as_json(section=FOLDER),
            stage_version=STAGES["dataset"],
        shell:
            "python -m grace dataset folder --name {params.name:q} --output {output:q} --settings {params.settings:q}"
            " > {log:q} 2>&1 || python -m grace ended $? {log:q}"

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
        files=read_by(CONFIG, "tokenizer"),
    output:
        directory(f"{DATA}/tokenizer"),
    log:
        f"{LOGS}/tokenizer.log",
    benchmark:
        f"{TIMES}/tokenizer.tsv"
    priority: 1  # before the tower is trained: it says which captions are too long for the language model
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
