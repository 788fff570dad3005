"""Addressed randomness: a generator belongs to what it is for, not to what was drawn before."""

import numpy as np
import torch


def generator(*address: int) -> torch.Generator:
    """Give the generator at an address, such as (seed, purpose, step)."""
    state = np.random.SeedSequence(address).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))
