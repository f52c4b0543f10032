"""Estimate what a configuration costs before anything runs: parameters, memory under every ZeRO stage, time, disk.

    python -m grace plan --configfile config/flickr30k.yaml --gpus 4 --gpu-memory 80

Reads configuration files and, if they exist, the data set and tokenizer of the configuration; writes nothing unless asked.
docs/explanation/training.md has the formulas; `python -m benchmarks.plan` compares the memory with measured peaks.
"""
