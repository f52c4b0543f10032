"""The Python behind Snakefile and rules/: the configuration, and a stage's command, params, resources, inputs and hooks.

Whatever a rule needs beyond paths is here, where it can be tested. `grace.workflow` holds what the stages read as well.
"""
