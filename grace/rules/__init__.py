"""The Python of Snakefile and rules/: the configuration as planned, a stage's command, params, resources and inputs, hooks.

What a rule needs beyond paths is here, where tests reach it. `grace.workflow` holds what the stages themselves read too.
"""
