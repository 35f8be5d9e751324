"""Speed and memory as ratios: ours and the usual form, side by side in one process."""
