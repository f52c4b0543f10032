"""Results of a run that never was, for the report, and a parser that checks its page."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
from PIL import Image

from grace.data.tables import write_dataset
from grace.evaluation import evaluate, metrics
from grace.retrieval.runs import write_run
from grace.system.files import write_json, write_table
from grace.workflow.config import Config, Evaluate

HOSTILE = '<script src="https://evil.example/x.js">alert("1")</script> & a "quoted" caption'
IMAGES = 16


def make_results(folder, schemes=("atomic", "structured"), seeds=(0,)):
    """Results of a run on 16 test pictures of one colour each: the baseline and `schemes`, some queries unanswered."""
    results = folder / "results"
    world = results / "scenes"
    make_dataset(world / "dataset")
    rng = np.random.default_rng(0)
    curve(world / "tower/metrics.jsonl", "loss")
    curve(world / "captioner/metrics.jsonl", "loss")
    make_system(world / "baseline", world / "dataset", "baseline", None, rng)
    places = [(scheme, seed) for scheme in schemes for seed in seeds]
    for scheme, seed in places:
        own = world / scheme / f"seed{seed}"
        make_system(own, world / "dataset", scheme, seed, rng)
        make_identifiers(own / "identifiers", scheme, seed)
        curve(own / "model/metrics.jsonl", "loss", "loss_memorize", "loss_retrieve")
    files = [world / "baseline/metrics.json", *(world / scheme / f"seed{seed}/metrics.json" for scheme, seed in places)]
    metrics(files=files, output=results / "metrics.json")
    for record in results.rglob("*provenance.json"):  # as of a folder that lost its records: the tests edit files
        record.unlink()
    benchmark(results / "benchmarks/scenes/tower.tsv", 187.4, "900.5")
    benchmark(results / "benchmarks/scenes/atomic/seed0/train.tsv", 61.2, "1500.0")
    benchmark(results / "benchmarks/scenes/dataset.tsv", 0.4, "-")
    write_json(folder / "config.json", Config(schemes=schemes, seeds=seeds).model_dump(mode="json"))
    return {"config": folder / "config.json", "results": results, "output": results / "report/index.html"}


def make_dataset(dataset):
    (dataset / "images").mkdir(parents=True)
    names = [f"i{n}" for n in range(IMAGES)]
    for number, name in enumerate(names):
        Image.new("RGB", (40, 40), (number * 15, 80, 200 - number * 10)).save(dataset / f"images/{name}.png")
    images = pd.DataFrame({"image_id": [*names, "t"], "split": ["test"] * IMAGES + ["train"], "source_split": ""})
    images["file"] = [f"{name}.png" for name in names] + ["i0.png"]
    captions = images.loc[images.index.repeat(2), ["image_id", "split"]].reset_index(drop=True)
    captions["caption_id"] = [f"c{n}" for n in captions.index]
    captions["text"] = [HOSTILE if n < 6 else f"picture number {n}" for n in captions.index]
    summary = {"name": "scenes", "source": "scenes", "images_dir": "images", "license": "drawn <here>"}
    write_dataset(dataset, images, captions, summary)


def make_system(own, dataset, scheme, seed, rng):
    run = {}
    for query in range(IMAGES * 2 - 1):  # the last query stays unanswered
        others = [n for n in range(IMAGES) if n != query // 2]
        docs = rng.permutation(others)[:9].tolist()
        docs.insert(int(rng.choice([0, 0, 2, 7])), query // 2)
        run[f"c{query}"] = [(f"i{doc}", -float(place)) for place, doc in enumerate(docs)]
    write_run(own / "run.trec", run, scheme)
    memorization = None if scheme == "baseline" else {"correct": 15, "images": 16, "rate": 15 / 16}
    counts = {
        "hypotheses": 310,
        "invalid": 2,
        "duplicates": 1,
        "failed_queries": 1,
        "valid_rate": 308 / 310,
        "seconds": 4.0,
    }
    found = {
        "scheme": scheme,
        "seed": seed,
        "queries": IMAGES * 2,
        "beams": 10,
        "depth": 10,
        "memorization": memorization,
    }
    write_json(own / "retrieval.json", found | counts)
    files = {"run": own / "run.trec", "retrieval": own / "retrieval.json", "output": own / "metrics.json"}
    other = None if scheme == "baseline" else own.parent.parent / "baseline/run.trec"
    evaluate(dataset=dataset, **files, baseline=other, settings=Evaluate(resamples=50))


def make_identifiers(folder, scheme, seed):
    level = {"level": 0, "nodes": 1, "min": 16, "median": 16.0, "max": 16}
    found = {"scheme": scheme, "seed": seed, "images": 17, "identifiers": 17, "lengths": {"3": 16, "2": 1}}
    found |= {"fan_out": [level], "gallery_fan_out": [level], "duplicates": {"identifiers": 0, "images": 0}}
    write_json(folder / "statistics.json", found | {"checks": ["identifiers are prefix-free"]})
    ids = [f"i{n}" for n in range(IMAGES)]
    table = pd.DataFrame({"image_id": ids, "split": "test", "tokens": [[n] for n in range(IMAGES)]})
    write_table(folder / "identifiers.parquet", table.assign(text=[f"<s0_{n}>" for n in range(IMAGES)]))


def curve(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"step": step, "samples_per_second": 100.0} | dict.fromkeys(names, 5 / step) for step in range(1, 40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def benchmark(path, seconds, memory):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\tmax_vms\tcpu_time\n{seconds}\t0:00:00\t{memory}\t-\t{seconds}\n")


class Page(HTMLParser):
    """Collects tags, attributes and ids of a page, and the text outside of style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title", "desc"):
            self.words.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]
