# Targets: everything up to a stage. `snakemake train -R train_model` reruns one stage.
EVERY = partial(expand, scheme=CONFIG.schemes, seed=CONFIG.seeds)
TRAINED = partial(expand, scheme=CONFIG.trained_schemes, seed=CONFIG.seeds)

SYSTEM_FILES = ["run.trec", "retrieval.json", "metrics.json", "per_query.parquet"]
REPORT_FILES = ["report/index.html", "report/table.csv", "report/recall.svg"]
EVERYTHING = [
    *(f"{DATA}/{made}" for made in ("dataset", "tokenizer", "tower", "embeddings", "pseudo_queries")),
    *([f"{DATA}/captioner"] if CONFIG.captioner_is_read else []),
    *TRAINED([f"{RUN}/identifiers", f"{RUN}/model"]),
    *EVERY([f"{RUN}/trie.safetensors", f"{RUN}/certificates.parquet"]),
    *expand(f"{DATA}/{{system}}/{{made}}", system=SYSTEMS, made=SYSTEM_FILES),
    *expand(f"{DATA}/{{system}}/{{made}}", system=FOREIGN, made=["metrics.json", "per_query.parquet"]),
    *(f"{OUTPUT}/{made}" for made in ("metrics.json", "report/config.json", *REPORT_FILES)),
]


rule data:
    input:
        up_to("data", "dataset", [f"{DATA}/dataset"]),


rule identifiers:
    input:
        up_to("identifiers", "assign_identifiers", TRAINED(f"{RUN}/identifiers")),


rule trie:
    input:
        up_to("trie", "build_trie", EVERY(f"{RUN}/trie.safetensors")),


rule train:
    input:
        up_to("train", "train_model", TRAINED(f"{RUN}/model")),


rule retrieve:
    input:
        up_to("retrieve", "retrieve_images", EVERY(f"{RUN}/run.trec")),


rule evaluate:
    input:
        up_to("evaluate", "evaluate_system", expand(f"{DATA}/{{system}}/metrics.json", system=EVALUATED)),
