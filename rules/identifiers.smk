# Stages identifiers and trie, for every scheme and seed.
rule assign_identifiers:
    input:
        dataset=rules.dataset.output[0],
        tokenizer=rules.tokenizer.output[0],
        embeddings=rules.encode.output[0],
        pseudo_queries=rules.pseudo_queries.output[0],
    output:
        directory(f"{RUN}/identifiers"),
    log:
        f"{LOGS}/{{scheme}}/seed{{seed}}/identifiers.log",
    benchmark:
        f"{TIMES}/{{scheme}}/seed{{seed}}/identifiers.tsv"
    conda:
        "../envs/infer.yaml"
    # the clusterings of one level are independent; the other schemes compute next to nothing
    threads: lambda wildcards: ALONE if wildcards.scheme == "structured" else 1
    resources:
        **resources_of("identifiers", 2000),
    params:
        **params_of("identifiers"),
        val=VAL,
    message:
        SHOWN
    shell:
        stage_command(
            "identifiers --scheme {wildcards.scheme} --seed {wildcards.seed} --dataset {input.dataset:q}"
            " --tokenizer {input.tokenizer:q} --embeddings {input.embeddings:q} --pseudo-queries {input.pseudo_queries:q}"
            " --output {output:q} {params.val} {params.settings}"
        )


rule build_trie:
    input:
        identifiers=rules.assign_identifiers.output[0],
        tokenizer=rules.tokenizer.output[0],
    output:
        f"{RUN}/trie.safetensors",
    log:
        f"{LOGS}/{{scheme}}/seed{{seed}}/trie.log",
    benchmark:
        f"{TIMES}/{{scheme}}/seed{{seed}}/trie.tsv"
    conda:
        "../envs/infer.yaml"
    threads: 1
    resources:
        **resources_of("trie", 2000),
    params:
        **params_of("trie"),
    message:
        SHOWN
    shell:
        stage_command("trie --identifiers {input.identifiers:q} --tokenizer {input.tokenizer:q} --output {output:q}")
