"""Compile the Triton kernels for GPUs that need not be here: A100 and H100. Run by test_gpu.py."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime import JITFunction

from panscope.kernels import gpu_rows, gpu_screen
from panscope.kernels.gpu_screen import TILE

A100, H100 = 80, 90
SHARED = {A100: 166_912, H100: 232_448}  # bytes that one program may have
POINTERS = {
    "_halve": "fp32 fp16 fp32 fp32 fp32",
    "_screen": "fp16 fp32 fp32 fp32 fp16 fp32 fp32 fp32 fp32 i64 i32",
    "_dot": "fp32 fp32 i32 i32 fp32",
    "_weighted_sum": "i64 i64 fp32 i32 fp32 fp32",
    "_move": "fp32 fp32 fp32 fp32 i1 fp32 fp32",
}
NUMBERS = {
    "_halve": "i32 i32",
    "_screen": "i32 i32 i32 i32 fp32",
    "_dot": "i32 i32",
    "_weighted_sum": "i32",
    "_move": "i32 fp32 fp32 fp32 fp32 fp32",
}


def compiled(
    kernel: JITFunction, architecture: int, options: dict[str, int], **constants: object
) -> CompiledKernel:
    name = kernel.__name__
    pointers = POINTERS[name].split()
    types = [f"*{p}" for p in pointers] + NUMBERS[name].split() + ["constexpr"] * len(constants)
    signature = dict(zip(kernel.arg_names, types, strict=True))
    # As at a launch: addresses and the number of columns are multiples of 16.
    columns = kernel.arg_names.index("depth" if name == "_screen" else "d")
    aligned = {(at,): [["tt.divisibility", 16]] for at in (*range(len(pointers)), columns)}
    source = ASTSource(kernel, signature, constants, aligned)
    made = triton.compile(source, GPUTarget("cuda", architecture, 32), options)
    assert made.metadata.shared <= SHARED[architecture], name
    return made


def main() -> None:
    sizes = {"TOKENS": TILE.tokens, "LATENTS": TILE.latents, "DEPTH": TILE.depth}
    tile = {"num_warps": TILE.warps, "num_stages": TILE.stages}
    for architecture, instruction in ((A100, "mma.sync"), (H100, "wgmma")):
        product = compiled(gpu_screen._screen, architecture, tile, **sizes)
        assert instruction in product.asm["ptx"], "the product does not use tensor cores"
    wide = {"num_warps": gpu_screen.warps_for(4096)}
    compiled(gpu_screen._halve, H100, wide, BLOCK=4096)
    compiled(gpu_rows._dot, H100, {}, PAIRS=gpu_rows.PAIRS, BLOCK=256)
    compiled(gpu_rows._weighted_sum, H100, {}, TERMS=gpu_rows.TERMS, BLOCK=512)
    for mean in (False, True):
        compiled(gpu_rows._move, H100, wide, MEAN=mean, UNIT=True, BLOCK=4096)


if __name__ == "__main__":
    main()
