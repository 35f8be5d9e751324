"""Gaussian diffusion of vectors: noise schedules, the two ways along a chain, and networks that undo noise."""
