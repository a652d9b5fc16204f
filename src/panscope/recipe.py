"""Recipes: a whole suite in one TOML file, a section for each verb."""

from pathlib import Path
from typing import Literal

from panscope import config
from panscope.config import override, read_tree
from panscope.errors import NotFound, nearest
from panscope.model.load import Config as ModelConfig
from panscope.model.text import Config as TextConfig
from panscope.stages.describe import Config as DescribeConfig
from panscope.stages.evaluate import Config as EvaluateConfig
from panscope.stages.explain import Config as ExplainConfig
from panscope.stages.harvest import Config as HarvestConfig
from panscope.stages.train import Config as TrainConfig
from panscope.store.shared import Config as StoreConfig


class Metrics(config.Config):
    """Where training's numbers go besides events.jsonl and the terminal."""

    tensorboard: bool = False
    """Into `tensorboard/` of the run folder."""
    wandb: str | None = None
    """The name of a project at Weights & Biases."""


class Recipe(config.Config):
    """A whole suite: the model, its text, and a section for each verb."""

    model: ModelConfig = ModelConfig()
    text: TextConfig = TextConfig()
    harvest: HarvestConfig = HarvestConfig()
    store: StoreConfig = StoreConfig()
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    describe: DescribeConfig = DescribeConfig()
    explain: ExplainConfig = ExplainConfig()
    metrics: Metrics = Metrics()
    source: Literal["live", "store"] = "live"
    """Where training takes activations from: a live stream, or the store that harvest wrote."""


def packaged_recipes() -> dict[str, Path]:
    """List the recipes that come with the package, by name."""
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_recipe(name: str, assignments: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe, by path or by a packaged name, with `section.key=value` overrides."""
    packaged = packaged_recipes()
    path = packaged.get(name, Path(name))
    if not path.is_file():
        raise NotFound(f"recipe {name}", "no such file or packaged recipe", nearest(name, packaged))
    return Recipe.parse(override(read_tree(path), assignments), str(path))
