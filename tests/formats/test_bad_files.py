"""Damaged, misshapen or hostile files: a sentence with file and field, nothing executed."""

import io
import json
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.formats.conftest import WIDTH, D, Taken
from tests.formats.test_from_specification import crossing, drawn, gemma_scope_2, save_npz
from tests.formats.test_llamascopium import HOOKS, written

from panscope.errors import Corrupt, PanscopeError, Unsupported
from panscope.stages.exchange import Ends, hub
from panscope.stages.exchange.foreign import Foreign
from panscope.stages.exchange.formats import format_of
from panscope.stages.exchange.hooks import site_of

DATA = Path(__file__).parent / "data"
Arrays = dict[str, torch.Tensor]


@pytest.fixture
def saelens(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "saelens/jumprelu", tmp_path / "theirs"))


def rewrite(folder: Path, change: Callable[[Arrays], object]) -> None:
    arrays = load_file(folder / "sae_weights.safetensors")
    change(arrays)
    save_file(arrays, folder / "sae_weights.safetensors")


BAD_ARRAYS = {
    "missing": (lambda a: a.pop("threshold"), r"sae_weights\.safetensors: threshold: is missing"),
    "rows": (
        lambda a: a.update(W_dec=torch.zeros(WIDTH, D + 1)),
        r"W_dec: has the shape \(10, 7\); the other arrays ask for \(10, 6\)",
    ),
    "axes": (lambda a: a.update(b_enc=torch.zeros(WIDTH, 1)), r"b_enc: has the shape \(10, 1\)"),
    "empty": (lambda a: a.update(W_enc=torch.zeros(0, WIDTH)), r"W_enc: has the shape \(0, 10\)"),
    "nan": (lambda a: a["W_enc"].fill_(torch.nan), "W_enc: has values that are not finite"),
    "infinite": (lambda a: a["b_dec"].fill_(torch.inf), "b_dec: has values that are not finite"),
    "integers": (
        lambda a: a.update(b_enc=torch.zeros(WIDTH, dtype=torch.int32)),
        r"b_enc: has the type torch\.int32; save it in floating point",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_cannot_be_used(case: str, saelens: Path, taken: Taken):
    change, why = BAD_ARRAYS[case]
    rewrite(saelens, change)
    with pytest.raises(PanscopeError, match=why):
        taken(saelens)


BAD_CONFIGS = {
    "architecture": ({"architecture": "jumprelu2"}, "architecture: is 'jumprelu2'; did you mean"),
    "temporal": ({"architecture": "temporal"}, "architecture: is 'temporal'"),
    "whitening": ({"normalize_activations": "whitening"}, "normalize_activations: is 'whitening'"),
    "scale": (
        {"normalize_activations": "expected_average_only_in"},
        "normalize_activations: comes without its scale",
    ),
    "d_in": ({"d_in": "6"}, "d_in: is '6'; it must be a positive number"),
    "bool": ({"d_sae": True}, "d_sae: is True"),
    "long": ({"architecture": "x" * 10_000}, r"architecture: is 'x{59} \.\.\.; known: standard"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_configurations_that_cannot_be_used(case: str, saelens: Path, taken: Taken):
    changed, why = BAD_CONFIGS[case]
    config = json.loads((saelens / "cfg.json").read_text())
    (saelens / "cfg.json").write_text(json.dumps(config | changed))
    with pytest.raises(PanscopeError, match=why):
        taken(saelens)


def test_latents_below_zero_are_refused(tmp_path: Path, taken: Taken):
    folder = Path(shutil.copytree(DATA / "sparsify/run/layers.1.mlp", tmp_path / "layers.1.mlp"))
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"signed": True}))
    with pytest.raises(Unsupported, match="signed: keeps latents below zero too"):
        taken(tmp_path)


JUNK = (None, [], {}, "x", "../../x", "\ud800", -1, 0, 1e-300, 10**30, float("nan"), True)
CONFIGS = {
    "saelens/jumpreluskiptranscoder": "cfg.json",
    "saelens/flat_topk": "cfg.json",
    "saelens/batchtopk_checkpoint": "activation_scaler.json",
    "dictionary_learning/BatchTopKSAE": "config.json",
    "sparsify/run/layers.1.mlp": "cfg.json",
}


def a_clt_of_llamascopium(folder: Path) -> None:
    arrays = {"W_E": torch.randn(3, D, WIDTH), "b_E": torch.randn(3, WIDTH)}
    for to in range(3):
        arrays |= {f"W_D.{to}": torch.randn(to + 1, WIDTH, D), f"b_D.{to}": torch.randn(D)}
    hooks = {"hook_points_in": HOOKS["in"], "hook_points_out": HOOKS["out"]}
    written(folder, "clt", arrays, **hooks, act_fn="topk")


WRITTEN: dict[str, Callable[[Path], object]] = {
    "a clt of llamascopium": a_clt_of_llamascopium,
    "a clt of gemma_scope_2": lambda folder: crossing(folder, "clt", "all", 1, True),
}


@pytest.mark.parametrize("case", [*CONFIGS, *WRITTEN])
def test_junk_in_any_place_of_a_configuration_is_refused_or_not_used(case: str, tmp_path: Path):
    """Whatever value stands in the place of another: a refusal, or a whole Sae and plain facts."""
    folder = tmp_path / "layers.1"
    if case in WRITTEN:
        WRITTEN[case](folder)
    else:
        shutil.copytree(DATA / case, folder)
    path = folder / CONFIGS.get(case, "config.json")
    (weights,) = {*folder.glob("*.pt"), *folder.glob("[ps]a*.safetensors")}
    tree = json.loads(path.read_bytes())
    inner = [(key, k) for key, value in tree.items() if isinstance(value, dict) for k in value]
    for place in [*((key, None) for key in tree), *inner]:
        for junk in JUNK:
            key, below = place
            changed = {**tree, key: junk if below is None else {**tree[key], below: junk}}
            path.write_text(json.dumps(changed))
            file = Foreign(weights, f"layers.1/{weights.name}", str(tmp_path), Ends())
            try:
                form = format_of(file)
                slides = form.read(file) if form else []
            except PanscopeError:
                continue
            for slide in slides:
                json.dumps(slide.facts, allow_nan=False, ensure_ascii=False).encode()
                assert slide.sae.rebuild(torch.ones(1, D)).shape == (1, D * len(slide.sae.writes))


@pytest.mark.parametrize("text", [b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_a_configuration_that_is_no_object(text: bytes, saelens: Path, taken: Taken):
    (saelens / "cfg.json").write_bytes(text)
    with pytest.raises(Corrupt, match=r"cfg\.json: is not"):
        taken(saelens)


@pytest.mark.parametrize("hook", ["../../escape.output", "/etc/x.output", "a b.output", "x/../y"])
def test_a_hook_that_would_lead_out_of_the_suite(hook: str, saelens: Path, taken: Taken):
    config = json.loads((saelens / "cfg.json").read_text())
    config["metadata"]["hook_name"] = hook
    (saelens / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(PanscopeError):
        taken(saelens)
    assert not list(saelens.parent.rglob("sae.safetensors"))


def test_a_path_is_a_sites_name_only_in_words():
    assert str(site_of("model.layers.3.mlp.output")) == "model.layers.3.mlp.output"
    with pytest.raises(PanscopeError, match="is no name"):
        site_of("model..layers.output")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_widened_or_rounded(dtype: torch.dtype, saelens: Path, taken: Taken):
    """Half precision is read: widening is exact, and much of what there is was saved so."""
    expected = load_file(saelens / "sae_weights.safetensors")["W_dec"].to(dtype).float()
    rewrite(saelens, lambda a: a.update({name: array.to(dtype) for name, array in a.items()}))
    suite = taken(saelens)
    assert torch.equal(suite.load(suite.names[0]).w_dec, expected)


@pytest.mark.parametrize("cut", [0, 4, 100, -8])
def test_a_file_cut_short(cut: int, saelens: Path, taken: Taken):
    path = saelens / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(Corrupt, match="is not safetensors"):
        taken(saelens)


class Bomb:
    """Whoever unpickles this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def npz(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.fixture
def npz_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "x-res/layer_0/width_10/average_l0_1"
    save_npz(folder, drawn())
    return folder


def replaced(folder: Path, name: str, data: bytes, how: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(folder / "params.npz") as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    npz(folder / "params.npz", {**members, name: data}, how)


def test_a_pickle_in_an_npz_is_not_opened(npz_folder: Path, taken: Taken, tmp_path: Path):
    array = np.empty(1, dtype=object)
    array[0] = Bomb(tmp_path / "exploded")
    replaced(npz_folder, "threshold.npy", npy(array))
    with pytest.raises(Unsupported, match=r"params\.npz: threshold: holds pickled objects"):
        taken(tmp_path / "x-res")
    assert not (tmp_path / "exploded").exists()


def test_big_endian_numbers_are_refused(npz_folder: Path, taken: Taken, tmp_path: Path):
    replaced(npz_folder, "b_enc.npy", npy(np.zeros(WIDTH, dtype=">f4")))
    with pytest.raises(Unsupported, match=r"b_enc: is big-endian \(>f4\)"):
        taken(tmp_path / "x-res")


@pytest.mark.parametrize("header", [b"(((", b"{1: 2, 'a': 3}", b"(" * 9_000, b"  x\n y"])
def test_a_header_that_is_no_header(header: bytes, npz_folder: Path, taken: Taken, tmp_path: Path):
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    replaced(npz_folder, "b_enc.npy", head)
    with pytest.raises(Corrupt, match=r"params\.npz: b_enc: is not an array"):
        taken(tmp_path / "x-res")


def test_an_array_without_numbers(npz_folder: Path, taken: Taken, tmp_path: Path):
    replaced(npz_folder, "W_enc.npy", npy(np.zeros((0, WIDTH), dtype=np.float32)))
    with pytest.raises(Corrupt, match="W_enc: is empty"):
        taken(tmp_path / "x-res")


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_unpack_without_measure(
    how: int, npz_folder: Path, taken: Taken, tmp_path: Path
):
    replaced(npz_folder, "b_enc.npy", npy(np.zeros(WIDTH, dtype=np.float32)), how)
    with pytest.raises(Unsupported, match=rf"is packed by method {how}; save it uncompressed"):
        taken(tmp_path / "x-res")


def test_a_zip_whose_sizes_are_not_its_own(npz_folder: Path, taken: Taken, tmp_path: Path):
    """Else a file of a kilobyte could ask for terabytes."""
    path = npz_folder / "params.npz"
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = 2 * (1 << 30).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"params\.npz: claims \d{10} bytes of \d{4}"):
        taken(tmp_path / "x-res")


def test_an_npz_that_unpacks_to_much_more_is_refused(
    npz_folder: Path, taken: Taken, tmp_path: Path
):
    zeros = npy(np.zeros((1 << 24), dtype=np.float32))
    replaced(npz_folder, "threshold.npy", zeros, zipfile.ZIP_DEFLATED)
    assert (npz_folder / "params.npz").stat().st_size < 1 << 20
    with pytest.raises(Unsupported, match=r"threshold\.npy unpacks \d+ bytes to 67108"):
        taken(tmp_path / "x-res")


def test_a_header_that_promises_more_than_there_is(npz_folder: Path, taken: Taken, tmp_path: Path):
    head = npy(np.zeros(WIDTH, dtype=np.float32)).replace(b"(10,)", b"(9" + b"9" * 2 + b",)")
    replaced(npz_folder, "threshold.npy", head)
    with pytest.raises(Corrupt, match=r"threshold: has \d+ bytes for the shape \(999,\)"):
        taken(tmp_path / "x-res")


def test_a_flipped_bit_in_an_npz(npz_folder: Path, taken: Taken, tmp_path: Path):
    path = npz_folder / "params.npz"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(Corrupt, match=r"params\.npz: \w+: is not an array \(Bad CRC"):
        taken(tmp_path / "x-res")


def test_code_in_a_pt_is_not_run(tmp_path: Path, taken: Taken):
    folder = tmp_path / "theirs"
    folder.mkdir()
    torch.save({"W_enc": Bomb(tmp_path / "exploded")}, folder / "ae.pt")
    with pytest.raises(Unsupported, match=r"ae\.pt: holds more than tensors, which may be code"):
        taken(folder)
    assert not (tmp_path / "exploded").exists()


def test_a_bare_pickle_is_not_opened(tmp_path: Path, taken: Taken):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "ae.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(Corrupt, match=r"ae\.pt: is not a zip archive"):
        taken(folder)
    assert not (tmp_path / "exploded").exists()


def test_a_tensor_that_is_larger_than_its_numbers(tmp_path: Path, taken: Taken):
    folder = Path(
        shutil.copytree(DATA / "dictionary_learning/JumpReluAutoEncoder", tmp_path / "theirs")
    )
    tree = torch.load(folder / "ae.pt", weights_only=True)
    torch.save({**tree, "W_enc": torch.zeros(1).expand(1 << 20, 1 << 20)}, folder / "ae.pt")
    with pytest.raises(Unsupported, match=r"ae\.pt: W_enc: claims 4398046511104 bytes of 4"):
        taken(folder)


@pytest.fixture
def pt_folder(tmp_path: Path) -> Path:
    folder = DATA / "dictionary_learning/JumpReluAutoEncoder"
    return Path(shutil.copytree(folder, tmp_path / "theirs"))


def repacked(folder: Path, change: Callable[[dict[Any, Any]], object]) -> None:
    tree = dict(torch.load(folder / "ae.pt", weights_only=True))
    change(tree)
    torch.save(tree, folder / "ae.pt")


def test_a_tensor_without_numbers(pt_folder: Path, taken: Taken):
    repacked(pt_folder, lambda tree: tree.update(b_enc=torch.zeros(WIDTH, device="meta")))
    with pytest.raises(Unsupported, match="b_enc: has a shape and no numbers"):
        taken(pt_folder)


def test_parameters_are_read_as_tensors(pt_folder: Path, taken: Taken):
    repacked(pt_folder, lambda tree: tree.update(b_enc=torch.nn.Parameter(tree["b_enc"])))
    assert len(taken(pt_folder).names) == 1


def test_names_that_are_none_are_passed_over(tmp_path: Path, taken: Taken):
    folder = Path(shutil.copytree(DATA / "dictionary_learning/AutoEncoder", tmp_path / "theirs"))
    repacked(folder, lambda tree: (tree.pop("bias"), tree.update({3: 4})))
    with pytest.raises(Corrupt, match=r"ae\.pt: bias: is missing"):
        taken(folder)


def test_a_decoder_row_of_zeros_stays_one(tmp_path: Path, taken: Taken):
    folder = Path(shutil.copytree(DATA / "dictionary_learning/AutoEncoder", tmp_path / "theirs"))
    repacked(folder, lambda tree: tree["decoder.weight"][:, 3].zero_())
    suite = taken(folder)
    assert not suite.load(suite.names[0]).w_dec[3].any()


def test_finite_numbers_that_are_not_when_folded(tmp_path: Path, taken: Taken):
    folder = DATA / "dictionary_learning/GatedAutoEncoder"
    folder = Path(shutil.copytree(folder, tmp_path / "theirs"))
    repacked(folder, lambda tree: tree["r_mag"].fill_(100))
    with pytest.raises(Corrupt, match=r"ae\.pt: makes a w_enc of up to inf, when all is folded"):
        taken(folder)


def test_folders_whose_names_are_too_long_for_one(tmp_path: Path, taken: Taken):
    save_npz(tmp_path / "x-res" / ("a" * 150) / ("é" * 100) / "layer_0", drawn())
    (name,) = taken(tmp_path / "x-res").names
    assert len(name.partition("/")[2].encode()) <= 200


@pytest.mark.parametrize("name", ["../x.npz", "/etc/x.npz", "a/../../x.npz", "a\\..\\x.npz"])
def test_names_that_lead_out_of_their_folder(name: str):
    with pytest.raises(Corrupt, match="leads out of its folder"):
        hub.refuse_outside("owner/name", name)


def test_a_damaged_file_leaves_no_suite_and_the_repaired_one_is_read(tmp_path: Path, taken: Taken):
    gemma_scope_2(tmp_path / "repo/a/layer_1_width_10", False)
    gemma_scope_2(tmp_path / "repo/b/layer_1_width_10", False)
    path = tmp_path / "repo/b/layer_1_width_10/params.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(Corrupt):
        taken(tmp_path / "repo")
    assert not (tmp_path / "taken/manifest.json").exists()
    path.write_bytes(whole)
    assert len(taken(tmp_path / "repo").names) == 2


@pytest.mark.parametrize("form", ["npz", "pt", "safetensors"])
def test_flipped_and_missing_bytes_anywhere(form: str, tmp_path: Path):
    """Of 150 damaged files none does more than to be refused, or to be read as other numbers."""
    save_npz(tmp_path / "theirs-res/layer_0", drawn())
    path = {
        "npz": tmp_path / "theirs-res/layer_0/params.npz",
        "pt": DATA / "dictionary_learning/JumpReluAutoEncoder/ae.pt",
        "safetensors": DATA / "saelens/jumprelu/sae_weights.safetensors",
    }[form]
    folder = Path(shutil.copytree(path.parent, tmp_path / f"{form}-res/layer_0"))
    whole, dice = path.read_bytes(), random.Random(0)
    n_refused = 0
    for number in range(150):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        if number % 5 == 0:
            del damaged[dice.randrange(len(damaged)) :]
        (folder / path.name).write_bytes(damaged)
        file = Foreign(folder / path.name, f"layer_0/{path.name}", str(folder.parent), Ends())
        try:
            if found := format_of(file):
                found.read(file)
        except PanscopeError:
            n_refused += 1
    assert n_refused >= 30, "those that were cut short, at the least"
