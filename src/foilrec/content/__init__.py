"""Offline work on what items look like and say: negatives written by a model or by rules, judged, kept and exported."""
