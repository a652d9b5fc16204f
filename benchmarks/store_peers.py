"""The peers' readers of activations, fed with the same ones: their own code hands out batches."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

HOOK = "hook"


def write_for_saelens(folder: Path, rows: Tensor) -> None:
    """Write rows (rows, context, d) as CachedActivationsRunner does: Arrow, float32."""
    from datasets import Array2D, Dataset, Features, disable_progress_bars

    disable_progress_bars()
    features = Features({HOOK: Array2D(shape=tuple(rows.shape[1:]), dtype="float32")})
    Dataset.from_dict({HOOK: rows}, features=features).save_to_disk(str(folder))


def saelens_batches(folder: Path, context: int, d: int, batch_tokens: int) -> Iterator[Tensor]:
    """Read them by SAELens' ActivationsStore, with the smallest buffer it can mix in."""
    from sae_lens.training.activations_store import ActivationsStore

    store = ActivationsStore.__new__(ActivationsStore)  # its own start wants a model and a text
    vars(store).update(
        cached_activations_path=str(folder),
        hook_name=HOOK,
        context_size=context,
        d_in=d,
        device=torch.device("cpu"),
        dtype=torch.float32,
        store_batch_size_prompts=16,
        exclude_special_tokens=None,
        n_batches_in_buffer=batch_tokens // context,
        training_context_size=context,
        train_batch_size_tokens=batch_tokens,
        activations_mixing_fraction=0.5,
    )
    store.cached_activation_dataset = store.load_cached_activation_dataset()
    return store.get_data_loader()


def dictionary_learning_batches(activations: Tensor, batch_tokens: int) -> Iterator[Tensor]:
    """Draw them from dictionary_learning's ActivationBuffer, which has them in memory already."""
    if "nnsight" not in sys.modules:
        sys.modules["nnsight"] = types.ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]
    from dictionary_learning.buffer import ActivationBuffer

    model = types.SimpleNamespace(dtype=activations.dtype)
    n_contexts = 0  # so that it never asks the model for more
    buffer = ActivationBuffer(
        None, model, None, activations.shape[1], n_ctxs=n_contexts, out_batch_size=batch_tokens
    )
    buffer.activations = activations
    buffer.read = torch.zeros(len(activations), dtype=torch.bool)
    return buffer
