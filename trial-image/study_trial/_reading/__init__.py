"""Reads metrics that a program writes to files, while it writes them."""
