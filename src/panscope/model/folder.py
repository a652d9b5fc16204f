"""Where a model's files are: a folder that has all of them, the packaged one, or the Hub."""

import re
from pathlib import Path

from panscope.errors import NotFound

POCKET = "pocket"
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def pocket_file(name: str) -> Path:
    """Return the path of a file of the packaged model, there or not."""
    return Path(__file__).parent / "pocket" / name


def folder_or_id(name: str) -> str:
    """Check that a local folder is complete; pass on what looks like a Hub id."""
    folder = pocket_file("") if name == POCKET else Path(name)
    if not (name and folder.is_dir()):
        if folder.exists() or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
            raise NotFound(f"model {name}", "no such folder", "give a model's folder or a Hub id")
        return name
    missing = [file for file in NEEDED if not (folder / file).is_file()]
    if not any((folder / file).is_file() for file in WEIGHTS):
        missing.append(WEIGHTS[0])
    if missing:
        again = "reinstall panscope" if name == POCKET else "save the model there again"
        raise NotFound(f"model {name}", f"its folder has no {' and no '.join(missing)}", again)
    return str(folder)
