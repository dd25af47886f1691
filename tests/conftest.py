"""Puts this directory on Python's path for helpers that several kinds of tests share, such as chart.py."""
