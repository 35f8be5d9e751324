"""Sparse graphs of users and items: products with gradients, walks, neighbours, and graphs that are learned."""
