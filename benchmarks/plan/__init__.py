"""Memory as `grace plan` tells it against the measured peak of the same training.

    python -m benchmarks.plan --output docs/results/plan_memory.json

Every case trains three steps through the real engine in a process of its own, on a processor, and measures the largest
resident memory above what the process held before the model was made. Takes about ten minutes on one core, most of
them for bf16 where the processor has no instructions for it.
"""
