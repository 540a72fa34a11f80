"""Attacks on the mesh that are tried for real, each with the figure that it must not pass."""
