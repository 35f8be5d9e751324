"""What backbones make their tables of: embeddings, and features through linear maps."""
