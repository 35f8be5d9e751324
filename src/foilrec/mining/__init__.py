"""Hard negatives mined offline, for any model of dot products."""
