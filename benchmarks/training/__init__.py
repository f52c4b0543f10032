"""The retrieve step of training compared with the naive step, with the same model and work; on a GPU, also the 3B shapes.

    python -m benchmarks.training --configfile config.yaml --output docs/results/training_benchmark.json

Draws the built-in data, builds tower, model and identifiers of the configuration with random weights, and runs both steps on
the same samples: one untimed round that compares loss and gradients and tracks the peak of live bytes, then timed rounds,
alternating between the two. Writes JSON and prints a table; takes a minute or two on one core.
"""
