"""Which positions of the epoch's order a rank reads: arithmetic on integers, no torch, no files."""


def steps_per_epoch(num_samples: int, global_batch: int) -> int:
    """Optimizer steps of one epoch; the last short batch is dropped.

    Raises:
        ValueError: the batch is not positive, or the data set is smaller than one batch.
    """
    if global_batch < 1:
        raise ValueError(f"global batch must be >= 1, got {global_batch}")
    if num_samples < global_batch:
        raise ValueError(
            f"global batch {global_batch} is larger than the data set of {num_samples} samples: "
            "no step fits in an epoch; take a smaller batch"
        )
    return num_samples // global_batch


def positions_of_micro_batch(
    step: int, micro: int, rank: int, *, global_batch: int, accumulation: int, world_size: int
) -> range:
    """Positions in the epoch's order that `rank` reads in micro-batch `micro` of the epoch's step `step`.

    Step s covers [s B, (s + 1) B) whatever the world size and the accumulation, so a run resumed on another
    number of ranks goes on with the same global batches. Every rank reads equally many.

    Raises:
        ValueError: a number is outside its range, or accumulation x world size does not divide the batch.
    """
    if step < 0:
        raise ValueError(f"step must be >= 0, got {step}")
    if not 0 <= micro < accumulation:
        raise ValueError(f"micro-batch must lie in [0, {accumulation}), got {micro}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
    micro_batch = size_of_micro_batch(global_batch, accumulation, world_size)
    start = step * global_batch + (micro * world_size + rank) * micro_batch
    return range(start, start + micro_batch)


def size_of_micro_batch(global_batch: int, accumulation: int, world_size: int) -> int:
    """Samples of one micro-batch of one rank.

    Raises:
        ValueError: the global batch does not divide evenly.
    """
    if min(global_batch, accumulation, world_size) < 1:
        raise ValueError(
            "global batch, accumulation and world size must be >= 1, "
            f"got {global_batch}, {accumulation} and {world_size}"
        )
    micro_batch, remainder = divmod(global_batch, accumulation * world_size)
    if remainder:
        raise ValueError(
            f"global batch {global_batch} is not a multiple of {accumulation} micro-batches x "
            f"{world_size} ranks = {accumulation * world_size}"
        )
    return micro_batch


def check_positions(start: int, stop: int, num_samples: int) -> None:
    """Refuse positions that are not those of an epoch.

    Raises:
        ValueError: [start, stop) is not inside [0, num_samples).
    """
    if not 0 <= start <= stop <= num_samples:
        raise ValueError(f"positions [{start}, {stop}) are not inside an epoch of {num_samples} samples")
