"""Every number in a model file that a stranger could push, with its unit."""

MAX_BYTES = 2_000_000
MAX_NESTING = 32
MAX_INTEGER_DIGITS = 15
MAX_NUMBER_CHARACTERS = 40

MAX_LAYERS = 800
"""Calls of layers in all; Keras walks a network recursively, and Python allows 1,000 frames."""
MAX_INPUTS = 64
"""Inputs of one call, as of an `Add`."""

MAX_DIMENSION = 1_000_000
MAX_RANK = 6
MAX_WEIGHTS = 200_000_000
MAX_ACTIVATIONS = 100_000_000
"""Numbers that one record makes on its way through the network."""
MAX_BATCH_ACTIVATIONS = 8_000_000_000
"""The same for a whole batch: 32 GB, more than any volunteer has."""
MAX_ORTHOGONAL_WORK = 100_000_000_000
"""Multiplications of an `Orthogonal` initializer: rows x columns x the smaller of the two."""
MAX_TIME_DISTRIBUTED = 1_000
"""Steps that `TimeDistributed` writes out one by one."""
MAX_CONSTANTS = 100_000
"""Numbers in one `Normalization` or `Rescaling` argument."""

MAX_PROBLEMS = 100
