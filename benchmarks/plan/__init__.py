"""Memory predicted by `grace plan`, compared with the measured peak of the same training.

    python -m benchmarks.plan --output docs/results/plan_memory.json

Every case trains three steps with the real engine in a separate process, on CPU, and measures the peak resident memory above
that before the model was built. Takes about ten minutes on one core, most of it for bf16 if the CPU has no instructions for
it.
"""
