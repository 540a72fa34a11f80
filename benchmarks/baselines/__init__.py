"""What meshlore is compared with, each from its paper, with the same models on the same data.

Every method takes a `problem.Problem` and returns a `problem.Solution`. Settings are searched on the
validation part of the training set only (`python -m benchmarks.tune`; docs/benchmarks.md says how far).
"""
