"""What people do: an output edited by hand, an input or the configuration changed in mid-run."""

from __future__ import annotations

import json
import random
import shutil
import time

import pytest

from tests.faults.runs import OUTPUT, RULE_OF, SMALL, Run, in_words, wait_for_stage

OWN = "scenes/numeric/seed0"
# an output, a file of it, and a stage that reads it
READ_BY = (
    ("scenes/dataset", "captions.parquet", "tokenizer"),
    ("scenes/tokenizer", "tokenizer.json", "identifiers"),
    ("scenes/embeddings", "visual_tokens.npy", "train"),
    ("scenes/pseudo_queries", "pseudo_queries.parquet", "identifiers"),
    (f"{OWN}/identifiers", "identifiers.parquet", "trie"),
    (f"{OWN}/trie.safetensors", "", "retrieve"),
    (f"{OWN}/model", "model.safetensors", "retrieve"),
    (f"{OWN}/run.trec", "", "evaluate"),
    (f"{OWN}/retrieval.json", "", "evaluate"),
    (f"{OWN}/metrics.json", "", "metrics"),
    ("metrics.json", "", "report"),
)


def test_an_output_edited_by_hand(run: Run, undisturbed: Run, chance: random.Random, repeat: int):
    """`verify` names it; the next stage that reads it refuses it, and says what to do; that done, all is as before."""
    output, inside, reader = chance.choice(READ_BY)
    edited = run.results / output / inside if inside else run.results / output
    content = bytearray(edited.read_bytes())
    content[chance.randrange(len(content))] ^= 1
    edited.write_bytes(content)
    code, said = run.verify()
    assert code == 2 and f"{OUTPUT}/{edited.relative_to(run.results)}: changed after the stage" in said, said
    code, said = run("-R", RULE_OF.get(reader, reader))
    assert code != 0, said[-6000:]
    assert f"{edited.relative_to(run.folder)} was changed after the stage" in in_words(run), in_words(run)
    whole = run.results / output
    if whole.is_dir():
        shutil.rmtree(whole)
    else:
        whole.unlink()
    run.must_end_as(undisturbed)


@pytest.mark.long
def test_an_input_changed_between_stages(undisturbed: Run, run: Run, chance: random.Random, repeat: int):
    """Other pseudo-queries in mid-run: what read the old ones runs again; the old ones back, the old scores are back."""
    snakemake = run.start("-R", "pseudo_queries")
    assert wait_for_stage(run, snakemake, chance.choice(("identifiers", "trie", "train"))) is not None
    run.say("something else that is named")
    snakemake.wait(timeout=600)  # it ends well or in words; the rerun sees the new time of the file
    code, said = run()
    assert code == 0 and "rule pseudo_queries:" in said, said[-6000:]
    now, before = (other.results / "scenes/pseudo_queries/pseudo_queries.parquet" for other in (run, undisturbed))
    assert now.read_bytes() != before.read_bytes(), "the changed input changed nothing"
    assert run.verify()[0] == 0, run.verify()[1]
    run.say("a drawing called")
    run.must_end_as(undisturbed)


@pytest.mark.long
def test_a_state_of_another_input_is_not_gone_on_with(run: Run, undisturbed: Run, repeat: int):
    """A trainer killed, its pseudo-queries changed (images, identifiers and settings are not): training starts from scratch."""
    own = run.results / OWN
    snakemake = run.start("-R", "train_model")
    process = wait_for_stage(run, snakemake, "train")
    while not (own / "training_state" / "latest").exists():
        assert snakemake.poll() is None, run.said()[-6000:]
        time.sleep(0.01)
    process.kill()
    snakemake.wait()
    run.say("something else that is named")
    code, said = run("train")
    assert code == 0, said[-6000:]
    log = (run.results / "logs/scenes/numeric/seed0/train.log").read_text()
    assert "training starts from scratch" in log and "resuming from step" not in log
    run.say("a drawing called")
    run.must_end_as(undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("section", ["train", "evaluate"])
def test_a_configuration_changed_in_mid_run(run: Run, undisturbed: Run, section: str, repeat: int):
    """The run at work keeps the one it began with; the next run makes again exactly what the new one changes."""
    changed = {"train": {"steps": 30}, "evaluate": {"resamples": 60}}[section]
    snakemake = run.start("-R", "assign_identifiers")
    assert wait_for_stage(run, snakemake, "identifiers") is not None
    run.configure(**{section: changed})
    assert snakemake.wait(timeout=600) == 0, run.said()[-6000:]
    record = json.loads((run.results / OWN / "model" / "provenance.json").read_text())
    assert record["settings"]["training"]["steps"] == SMALL["train"]["steps"]
    code, said = run("-n")
    assert code == 0 and ("rule train_model:" in said) == (section == "train") and "rule evaluate_system:" in said, (
        said[-6000:]
    )
    code, said = run()
    assert code == 0, said[-6000:]
    record = json.loads((run.results / OWN / "model" / "provenance.json").read_text())
    assert record["settings"]["training"]["steps"] == (30 if section == "train" else SMALL["train"]["steps"])
    run.configure()
    run.must_end_as(undisturbed)
