"""Measurements, each a command: ``python -m benchmarks.NAME [--json] [--quick]`` from the repository root."""
