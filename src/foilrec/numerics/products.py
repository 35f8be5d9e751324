"""Products with a whole catalogue, in shapes that a CPU's library does at full speed."""

import torch

PANEL = 64  # rows at a time; for more than about a hundred of width 64, MKL takes a path of less than half the speed


def panel(room: int, device: torch.device) -> int:
    """How many rows to multiply by a whole catalogue at a time, where `room` are allowed: at least one."""
    return max(1, min(room, PANEL) if device.type == "cpu" else room)
