"""What the stages and the rules share: the configuration, the schemes, the numbers of the stages, GPUs."""
