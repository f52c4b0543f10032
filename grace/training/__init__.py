"""Training a Flamingo with DeepSpeed: one code path for the captioner and every scheme, for a CPU and for GPUs."""
