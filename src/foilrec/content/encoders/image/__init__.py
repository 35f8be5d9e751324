"""Encoders of pictures, uint8 [H, W, 3] each."""
