"""Readers of the files to which a program writes metrics while it runs."""
