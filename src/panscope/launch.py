"""Compose verbs: read a recipe, load the nouns it names, run stages into a run folder.

run/
  recipe.json     the recipe as it was run
  events.jsonl    progress and metrics, one event a line
  report.md       the metrics of the suite as a table
  begin.json      where in the store training began, if it joined others
  store/ suite/ atlas/
  notes.sqlite    labels and their scores
  answers/        what language models were asked and said
"""

from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

from panscope import dist, files, source
from panscope.atlas.features import Atlas
from panscope.atlas.notes import Notes
from panscope.dist import Share
from panscope.events import Emit, Warned, to_jsonl
from panscope.model import load, text
from panscope.model.folder import POCKET
from panscope.model.load import Config as ModelConfig
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.place import Place, remove_halves
from panscope.recipe import Recipe
from panscope.sae.suite import Suite
from panscope.sinks import to_tensorboard, to_wandb
from panscope.sites import Site
from panscope.source import Source
from panscope.stages import describe, evaluate, explain, harvest, train
from panscope.stages.describe import Work as Description
from panscope.stages.harvest import RowsFrom
from panscope.stages.harvest import Work as Harvest
from panscope.stages.train import Work as Training
from panscope.stages.train import memory, sweep
from panscope.stages.train.sweep import Spec


def sinks(recipe: Recipe, out: Path) -> list[Emit]:
    """Make the sinks that a recipe asks for besides the terminal's; a missing library is named."""
    made = [to_jsonl(out / "events.jsonl")]
    if recipe.metrics.tensorboard:
        made.append(to_tensorboard(out / "tensorboard"))
    if recipe.metrics.wandb:
        made.append(to_wandb(recipe.metrics.wandb, out.name, recipe.described))
    return made


def record(recipe: Recipe, out: Path) -> None:
    """Write a recipe into its run folder, and take away what killed commands left half done."""
    files.write_json(out / "recipe.json", recipe.described)
    for pattern in (".*", "answers/*/.*"):
        remove_halves(out, pattern)


class Launch:
    """A recipe on its way into a run folder; the model is loaded when a stage first needs it."""

    def __init__(self, recipe: Recipe, out: Path, emit: Emit) -> None:
        self.recipe = recipe
        self.out = out
        self.emit = emit

    @cached_property
    def model(self) -> Model:
        """The model the recipe names."""
        return load.load(self.recipe.model)

    @cached_property
    def specs(self) -> tuple[Spec, ...]:
        """The Saes that the recipe asks for, in the order of a forward pass."""
        named = sweep.named(self.recipe.train, self.model.sites)
        return sweep.specs(named, self.model.n_layers)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that some Sae reads or writes, in the order of a forward pass."""
        return sweep.sites_of(self.specs)

    @property
    def inputs(self) -> dict[str, str]:
        """The digests of model and text."""
        return {"model": self.model.digest, "text": text.fingerprint(self.recipe.text)}

    @property
    def store(self) -> Place:
        """Where the store is: in the run folder, or where the recipe says."""
        return Place.of(self.recipe.store.folder or self.out / "store")

    def harvest(self) -> files.Manifest:
        """Write activations into the store."""
        return harvest.run(self._harvest)

    def write_shards(self, share: Share) -> None:
        """Write a share of the shards of the store."""
        harvest.write(self._harvest, share)

    def seal_store(self) -> files.Manifest:
        """Make the shards of all shares a store."""
        return harvest.seal(self._harvest)

    @property
    def _harvest(self) -> Harvest:
        return Harvest(
            config=self.recipe.harvest,
            model=self.model,
            rows_from=self._rows_from("train"),
            inputs=self.inputs,
            out=self.store,
            emit=self.emit,
        )

    def train(self) -> Suite:
        """Train `suite/` from the live stream, or from `store/` if the recipe says so."""
        train.run(self._training())
        return Suite.open(self.out / "suite")

    def train_together(self, share: Share) -> None:
        """Train `suite/` with the latents of every Sae split over all processes."""
        group = dist.together(share, self.recipe.train.latent_shards)
        train.run(self._training(), group)

    def begin_training(self, n_workers: int) -> None:
        """Fix which Saes are trained together, before workers take their shares of them."""
        if len(train.begin(self._training(n_workers)).banks) < n_workers:
            self.emit(Warned("train", "there are fewer banks than workers: some have no work"))

    def train_share(self, share: Share) -> None:
        """Train the banks of a share; `train` seals all."""
        train.train_banks(train.begin(self._training(share.world)), share)

    def _training(self, n_workers: int = 1) -> Training:
        self._refuse_sites_that_cannot_be_edited()
        stream = self._stream()
        return Training(
            config=self.recipe.train,
            banks=self.banks(n_workers),
            batches_from=stream.batches_from,
            inputs=stream.inputs,
            out=self.out / "suite",
            emit=self.emit,
        )

    def banks(self, n_workers: int = 1) -> list[tuple[Spec, ...]]:
        """The Saes in the groups that fit in memory together, at least one a worker."""
        d_at = {site: self.model.d_at(site) for site in self.sites}
        device = self.model.device
        return memory.groups(self.specs, d_at, self.recipe.train, device, n_workers)

    def _refuse_sites_that_cannot_be_edited(self) -> None:
        for spec in self.specs:
            for site in spec.writes:  # evaluation will replace what stands there
                self.model.family.refuse_edit(site)

    def _stream(self) -> Source:
        """Return the stream that banks are trained on, and what they are made from."""
        found = self._from_store() if self.recipe.source == "store" else self._live()
        if (begin_from := self.recipe.train.begin_from) is None:
            return found
        digest = Suite.open(Path(begin_from)).manifest.digest
        return found._replace(inputs={**found.inputs, "begin_from": digest})

    def _live(self) -> Source:
        rows_from = self._rows_from("train")
        return source.live(self.recipe, self.model, rows_from, self.sites, self.inputs)

    def _from_store(self) -> Source:
        note = self.out / "begin.json"
        return source.stored(self.recipe, self.model, self.store, note, self.inputs)

    def evaluate(self) -> Suite:
        """Measure `suite/` on held-out text: metrics into its manifest, a table into report.md."""
        stage, suite = self.recipe.evaluate, self._suite("evaluate")
        rows = self._rows("held_out", stage.batch_rows, 0)
        batches = list(islice(rows, self._n_batches(stage.tokens, stage.batch_rows)))
        measured = evaluate.run(stage, self.model, suite, batches, self.inputs, self.emit)
        page = evaluate.report(measured.facts.values(), measured.manifest.facts["evaluation"])
        files.write_bytes(self.out / "report.md", page.encode())
        return measured

    def describe(self) -> files.Manifest:
        """Describe every feature of `suite/` into `atlas/`."""
        return describe.run(self._description)

    def read_firings(self, share: Share) -> None:
        """Log what fires in a share of the text."""
        describe.read(self._description, share)

    def tell_features(self, share: Share) -> None:
        """Make the features of a share of the Saes from the log."""
        describe.tell(self._description, share)

    def seal_atlas(self) -> files.Manifest:
        """Make an atlas of the features of all shares."""
        return describe.seal(self._description)

    @cached_property
    def _description(self) -> Description:
        stage, suite = self.recipe.describe, self._suite("describe")
        return Description(
            config=stage,
            model=self.model,
            suite=suite,
            rows_from=lambda row: self._rows("train", stage.batch_rows, row),
            inputs={**self.inputs, "suite": suite.manifest.digest},
            about={
                "model": anywhere(self.recipe.model).described,
                "text": self.recipe.text.described,
            },
            out=self.out / "atlas",
            emit=self.emit,
        )

    def explain(self) -> None:
        """Label features of `atlas/`, and score the labels, into `notes.sqlite`."""
        atlas = Atlas(self.out / "atlas")
        with closing(Notes.open(self.out / "notes.sqlite")) as notes:
            explain.run(self.recipe.explain, atlas, notes, self.out / "answers", self.emit)

    def rescore(self, method: str) -> None:
        """Score the labels by a method, such as those of people, into `notes.sqlite`."""
        config, answers = self.recipe.explain, self.out / "answers"
        atlas = Atlas(self.out / "atlas")
        with closing(Notes.open(self.out / "notes.sqlite")) as notes:
            explain.rescore(config, atlas, notes, answers, self.emit, method=method)

    def _suite(self, stage: str) -> Suite:
        """Open the suite; refuse one of another model, warn of another text."""
        suite = Suite.open(self.out / "suite")
        source.refuse_another_model(suite.folder, suite.manifest, self.inputs)
        if suite.manifest.inputs.get("text", self.inputs["text"]) != self.inputs["text"]:
            text = "not the text or the split that the suite was trained on: documents may be known"
            self.emit(Warned(stage, text))
        return suite

    def _rows(
        self, split: Literal["train", "held_out"], batch_rows: int, skip_rows: int
    ) -> Iterator[Rows]:
        return text.rows(self.recipe.text, self.model, split, batch_rows, skip_rows)

    def _rows_from(self, split: Literal["train", "held_out"]) -> RowsFrom:
        return lambda row: self._rows(split, self.recipe.harvest.batch_rows, row)

    def _n_batches(self, tokens: int, batch_rows: int) -> int:
        return -(-tokens // (batch_rows * self.recipe.text.context))


def anywhere(model: ModelConfig) -> ModelConfig:
    """Name a local model by its full path, so that a run can be served from another folder."""
    if model.name == POCKET or not Path(model.name).is_dir():
        return model
    return model.model_copy(update={"name": str(Path(model.name).resolve())})
