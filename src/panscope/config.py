"""Recipes: files read into frozen, strict models, with overrides and a digest.

A config sits in the module it configures and subclasses `Config`. Unknown keys, wrong types and
wrong ranges are refused with the key, the value and the nearest right name.
"""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from panscope.errors import ConfigError, NotFound, nearest


class Config(BaseModel):
    """Plain values, frozen and hashable; unknown keys and silent coercions are errors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @classmethod
    def parse(cls, tree: dict[str, Any], where: str) -> Self:
        """Validate a tree of plain values; `where` opens the message of a refusal.

        The tree goes through JSON, where strict mode takes arrays for tuples and strings for paths.
        """
        try:
            return cls.model_validate_json(json.dumps(tree, default=str))
        except ValidationError as error:
            raise _config_error(cls, tree, where, error) from error

    @property
    def described(self) -> dict[str, Any]:
        """The same as plain values, as manifests have it; `parse` reads it back."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Name this configuration: SHA-256 of its canonical JSON, 64 hex digits."""
        return digest_of(self.described)


def digest_of(tree: object) -> str:
    """Hash a tree of plain values independently of key order."""
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_tree(path: Path) -> dict[str, Any]:
    """Read a file into a tree: TOML, or JSON by its ending, as a run folder keeps its recipe."""
    if not path.is_file():
        raise NotFound(str(path), "no such file", "give the path of a TOML file")
    form, loads = ("JSON", json.loads) if path.suffix == ".json" else ("TOML", tomllib.loads)
    try:
        tree = loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        found = f"is not UTF-8 at byte {error.start}"
        raise ConfigError(str(path), found, "convert the file to UTF-8") from error
    except ValueError as error:  # of either form
        raise ConfigError(str(path), f"is not {form} ({error})", "correct that line") from error
    except RecursionError as error:
        raise ConfigError(
            str(path), "is nested too deep", "write it as the docs have it"
        ) from error
    if not isinstance(tree, dict):
        raise ConfigError(str(path), "is not a JSON object", "write its keys in braces")
    return tree


def packaged_recipes() -> dict[str, Path]:
    """List the recipes that come with the package, by name."""
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def recipe_file(name: str) -> Path:
    """Find a recipe, by path or by a packaged name."""
    packaged = packaged_recipes()
    path = packaged.get(name, Path(name))
    if not path.is_file():
        raise NotFound(f"recipe {name}", "no such file or packaged recipe", nearest(name, packaged))
    return path


def recipe_tree(name: str, assignments: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a recipe, by path or packaged name, with overrides; its keys are not checked yet."""
    return override(read_tree(recipe_file(name)), assignments)


def override(tree: dict[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of `tree` with `dotted.key=value` assignments made; values are TOML, or text.

    >>> override({"train": {"seed": 0}}, ("train.seed=3", "text.path=a.txt"))
    {'train': {'seed': 3}, 'text': {'path': 'a.txt'}}
    """
    changed: dict[str, Any] = json.loads(json.dumps(tree, default=str))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(assignment, "is not an override", "write section.key=value")
        *sections, last = key.split(".")
        place = changed
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(assignment, f"{section} is a value", "name a key in a section")
        place[last] = _toml_value(text)
    return changed


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _config_error(
    cls: type[BaseModel], tree: dict[str, Any], where: str, error: ValidationError
) -> ConfigError:
    """Turn pydantic's first complaint into one sentence with a way out."""
    first = error.errors()[0]
    parts = map(str, first["loc"])
    key = ".".join(part for part in parts if "[" not in part)  # without the branches of unions
    if first["type"] == "extra_forbidden":
        known = _fields_at(cls, first["loc"][:-1])
        return ConfigError(where, f"unknown key {key}", nearest(str(first["loc"][-1]), known))
    if first["type"] == "missing":
        return ConfigError(where, f"{key} is missing", "add it")
    hint = (first["msg"][0].lower() + first["msg"][1:]).removeprefix("value error, ")
    if isinstance(first["input"], dict):  # its keys are right, but not with one another
        return ConfigError(where, f"{key} cannot be used".lstrip(), hint)
    return ConfigError(where, f"{key} is {first['input']!r}", hint)


def _fields_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """List the fields of the model that sits at `loc` inside `cls`."""
    kind: Any = cls
    for part in loc:
        field = _fields_of(kind).get(str(part))
        kind = field.annotation if field is not None else kind
    return list(_fields_of(kind))


def _fields_of(kind: Any) -> dict[str, Any]:
    """The fields of a model, or of the one inside a type such as `tuple[Edit, ...]`."""
    if hasattr(kind, "model_fields"):
        return dict(kind.model_fields)
    return next(filter(None, map(_fields_of, get_args(kind))), {})
