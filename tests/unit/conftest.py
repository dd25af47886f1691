"""Hypothesis without a time limit for each example: on a busy machine any of them may take long."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
