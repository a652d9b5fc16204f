"""The machines that hours are counted on: this one, as measured, and accelerators by data sheet."""

from dataclasses import dataclass

UTILISATION = 0.5
"""Of an accelerator's peak: what Gemma Scope's dense trainer reached (section 3.3: 50.8 %)."""
DISK = 1 << 30
"""Bytes a second that storage gives an accelerator: Gemma Scope's servers gave each of its
trainers more than 1 GiB/s (section 3.3)."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One device and its disk; rates are a second's."""

    name: str
    memory_bytes: int
    model_flops: float
    """Operations in the model's forward pass."""
    train_flops: float
    """Operations in the trainer's products."""
    write_bytes: float
    read_bytes: float
    is_gpu: bool = True


def _accelerator(name: str, memory_gb: int, peak: float) -> Machine:
    rate = UTILISATION * peak
    return Machine(name, memory_gb * 10**9, rate, rate, DISK, DISK)


# Memory, and the peak of dense 16-bit products: the trainer screens in float16 on GPUs.
ACCELERATORS = (
    _accelerator("H100 SXM", 80, 989e12),  # NVIDIA H100 data sheet, without sparsity
    _accelerator("A100 SXM", 80, 312e12),  # NVIDIA A100 data sheet
    _accelerator("L4", 24, 121e12),  # NVIDIA L4 data sheet, without sparsity
    # For comparison with Gemma Scope, which was trained on these; panscope does not run there.
    _accelerator("TPU v5p", 95, 459e12),  # Google Cloud's page of the v5p, a chip
    _accelerator("TPU v3", 32, 123e12),  # Google Cloud's page of the v3, a chip of two cores
)
