"""The retrieve step of training against the naive step, on one model and the same work; on a GPU, the 3B shapes too.

    python -m benchmarks.training --configfile config.yaml --output docs/results/training_benchmark.json

Draws the built-in data, makes tower, model and identifiers of the configuration with random weights, and runs both steps over the
same samples: one untimed round that compares loss and gradients and counts the peak of live bytes, then timed rounds,
the two ways in turn. Writes JSON and prints a table; takes a minute or two on one core.
"""
