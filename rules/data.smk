# Stages download, dataset and tokenizer.
KARPATHY, FOLDER = CONFIG.dataset.karpathy, CONFIG.dataset.folder
FETCHED = CONFIG.dataset.source == "karpathy" and KARPATHY.fetched
RECEIPT = f"{KARPATHY.data}/{KARPATHY.download}/download.json"

if FETCHED:

    rule download:
        output:
            # The receipt only: Snakemake deletes a job's outputs before it starts and when it fails, and the data may have been
            # put there by hand.
            ensure(RECEIPT, non_empty=True),
        log:
            f"{LOGS}/download.log",
        localrule: True
        conda:
            "../envs/infer.yaml"
        resources:
            **resources_of("download", 1000),
        params:
            name=KARPATHY.download,
            data=subpath(output[0], ancestor=2),
        message:
            SHOWN
        shell:
            stage_command("download {params.name:q} --data {params.data:q}")


rule dataset:
    input:
        {
            "karpathy": RECEIPT if FETCHED else as_they_are([KARPATHY.json_file]),
            "folder": as_they_are([FOLDER.captions] if FOLDER.captions not in ("", "sidecar") else []),
        }.get(CONFIG.dataset.source, []),
    output:
        directory(f"{DATA}/dataset"),
    log:
        f"{LOGS}/dataset.log",
    benchmark:
        f"{TIMES}/dataset.tsv"
    conda:
        "../envs/infer.yaml"
    threads: ALONE if CONFIG.dataset.source == "folder" else 1
    resources:
        **resources_of("dataset", 2000 if CONFIG.dataset.source == "scenes" else 4000),
    params:
        **params_of("dataset"),
        source=CONFIG.dataset.source,
        name=CONFIG.dataset.name,
        files=karpathy_files(CONFIG),
        photos=photos(CONFIG),
    message:
        SHOWN
    shell:
        stage_command(
            "dataset {params.source} --name {params.name:q} {params.files} --output {output:q} {params.settings}"
        )


rule tokenizer:
    input:
        dataset=rules.dataset.output[0],
        files=own_files(CONFIG, "tokenizer"),
    output:
        directory(f"{DATA}/tokenizer"),
    log:
        f"{LOGS}/tokenizer.log",
    benchmark:
        f"{TIMES}/tokenizer.tsv"
    priority: 1  # before the tower is trained: it reports captions that are too long for the language model
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        **resources_of("tokenizer", 2000),
    params:
        **params_of("tokenizer"),
    message:
        SHOWN
    shell:
        stage_command("tokenizer --dataset {input.dataset:q} --output {output:q} {params.settings}")
