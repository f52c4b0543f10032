"""What the Snakefile and rules/ need of Python: the configuration, the schemes, the numbers of the stages, GPUs."""
