"""Recipes: a whole suite in one TOML file, a section for each verb."""

from typing import Literal

from panscope import config
from panscope.config import recipe_file, recipe_tree
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


def read_recipe(name: str, assignments: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe, by path or by a packaged name, with `section.key=value` overrides."""
    return Recipe.parse(recipe_tree(name, assignments), str(recipe_file(name)))
