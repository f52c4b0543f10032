"""What a configuration costs, told before anything runs: parameters, memory of every ZeRO stage, time, disk.

    python -m grace plan --configfile config/flickr30k.yaml --gpus 4 --gpu-memory 80

Reads configuration files and, where they exist, the data set and tokenizer of the configuration; writes nothing unless asked.
The formulas stand in docs/training.md, and `python -m benchmarks.plan` checks the memory against measured peaks.
"""
