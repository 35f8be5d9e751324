"""Recommenders trained with negatives that are generated, of controlled difficulty, and fitted to the user."""
