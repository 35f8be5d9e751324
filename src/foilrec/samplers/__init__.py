"""Ways to choose or make negatives: one file each."""
