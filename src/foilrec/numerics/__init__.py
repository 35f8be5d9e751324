"""Arithmetic on tensors that knows nothing of recommenders: kernels, named randomness, rows, softmaxes."""
