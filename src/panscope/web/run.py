"""RunFolder: the folder that is being shown, its parts opened when they are first asked for.

Commands may change it meanwhile. Atlas and suite are opened again once they have been made anew,
by a look at their manifests with each request.
"""

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panscope.allocator import free_frozen, nothing_collected
from panscope.atlas.features import Atlas
from panscope.atlas.notes import Notes
from panscope.atlas.queries import Catalogue
from panscope.errors import Incomplete, NotFound, PanscopeError
from panscope.files import MANIFEST, read_manifest
from panscope.kept import Current, marks
from panscope.web.background import Background
from panscope.web.progress import EVENTS, Progress
from panscope.web.readings import ReadsText
from panscope.web.turns import Turns

NOT_MEASURED = "This suite has not been measured; run panscope evaluate on it, then reload."


@dataclass(frozen=True, slots=True)
class SaeView:
    """One Sae as the suite's manifest and the atlas know it; None for what is not known.

    `metrics` are those of evaluation: `l0 fvu delta_loss dead_share ...` and standard errors;
    `facts` are what else the manifest says of it: `architecture reads writes learning_rate ...`.
    """

    sae: str
    site: str
    width: int
    described: bool
    n_alive: int | None
    n_tokens: int | None
    target_l0: float | None
    seed: int | None
    trained_tokens: int | None
    metrics: dict[str, Any] | None
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SuiteView:
    """A run as its first page shows it; `notice` says what is missing and what makes it."""

    run: str
    model: str
    clean_loss: float | None
    saes: tuple[SaeView, ...]
    notice: str


class RunFolder:
    """A folder with `atlas/` and normally `suite/`; live tests load the model on first use."""

    def __init__(self, folder: Path, live: ReadsText | None = None) -> None:
        self.folder = folder
        self.turns = Turns()
        self.explaining = Turns(what="the explainer")
        self.background = Background()
        self.progress = Progress(folder / EVENTS)
        self.notes = Notes.reading(folder / "notes.sqlite")
        self._manifest = folder / "atlas" / MANIFEST
        self._given = live
        self._live = Current[ReadsText]()
        self._catalogue = Current[Catalogue]()

    def stop(self) -> None:
        """End what is at work in the background, and send away who waits for the model."""
        self.turns.close()
        self.explaining.close()
        self.background.cancel()

    def close(self) -> None:
        """Let go of the model: what was made within `nothing_collected` is not found otherwise."""
        if self._live.drop():
            free_frozen()

    @property
    def at_work(self) -> bool:
        """Whether a command, the model or the explainer is at work, which a stop must end."""
        return self.background.at_work or self.turns.taken or self.explaining.taken

    @property
    def atlas_marks(self) -> tuple[int, ...]:
        """What tells the atlas that is there now from another."""
        return marks(self._manifest)

    @property
    def catalogue(self) -> Catalogue:
        """The atlas as it is now; asked for again after a failure, it looks again."""
        return self._catalogue.get(self.atlas_marks, lambda: Catalogue(_open_atlas(self.folder)))

    @property
    def live(self) -> ReadsText:
        """The model and the suite, ready to read text."""
        if self._given is not None:
            return self._given
        catalogue, suite = self.catalogue, self.folder / "suite"
        made = (catalogue, marks(suite / MANIFEST))
        return self._live.get(made, lambda: _loaded(suite, catalogue))

    @property
    def has_suite(self) -> bool:
        """Whether there are Saes that could be run on a text."""
        return self._given is not None or (self.folder / "suite").is_dir()

    def open_notes(self) -> closing[Notes]:
        """Open the notes to be written to, for the length of a with block."""
        return closing(Notes.open(self.notes.path))

    def label_text(self, sae: str, index: int) -> str:
        """What is shown as a feature's label; empty if it has none."""
        return self.notes.texts(sae, [index]).get(index, "")

    @property
    def model(self) -> str:
        """The name of the model that the atlas was made of."""
        return str(self.catalogue.atlas.manifest.facts.get("model", {}).get("name", "unnamed"))

    def suite(self) -> SuiteView:
        """All Saes, with metrics if the suite is there; its manifest is read anew each time."""
        catalogue = self.catalogue
        facts, notice = _suite_facts(self.folder / "suite")
        trained = {fact["sae"]: fact for fact in facts.get("saes", ())}
        names = dict.fromkeys([*trained, *catalogue.atlas.saes])
        return SuiteView(
            run=self.folder.resolve().name,
            model=self.model,
            clean_loss=facts.get("evaluation", {}).get("clean_loss"),
            saes=tuple(_sae_view(name, trained.get(name), catalogue) for name in names),
            notice=notice,
        )

    def sae(self, name: str) -> SaeView:
        """One described Sae; NotFound names the nearest ids."""
        self.catalogue.atlas.sae(name)
        return next(view for view in self.suite().saes if view.sae == name)


def is_run(folder: Path) -> bool:
    """Whether a folder holds an atlas, or a stage is at work there."""
    return (folder / "atlas").is_dir() or (folder / EVENTS).is_file()


def _loaded(suite: Path, catalogue: Catalogue) -> ReadsText:
    free_frozen()  # a model of another suite: it is in cycles, and may not fit beside this one
    with nothing_collected():
        # Importing torch takes seconds and 200 MB, and browsing must not need it.
        from panscope.web.live import Live

        return Live(suite, catalogue)


def _open_atlas(folder: Path) -> Atlas:
    is_made = (folder / "atlas" / MANIFEST).is_file()
    if not is_made and (folder / EVENTS).is_file():
        do = "see /progress for what its stages are doing, or run panscope describe again"
        raise Incomplete(str(folder), "holds no atlas yet", do)
    if not (folder / "atlas").is_dir():
        do = "give a run folder, or make one with panscope demo or panscope describe"
        raise NotFound(str(folder), "holds no atlas", do)
    return Atlas(folder / "atlas")


def _suite_facts(folder: Path) -> tuple[Mapping[str, Any], str]:
    """The suite's facts and what to say of them; a broken suite leaves the atlas readable."""
    if not folder.is_dir():
        return (
            {},
            "This run has no suite, so no metrics and no live tests; panscope train makes it.",
        )
    try:
        facts = read_manifest(folder, "suite").facts
    except PanscopeError as error:
        return {}, f"No metrics and no live tests: {error}."
    measured = any("metrics" in fact for fact in facts["saes"])
    return facts, "" if measured else NOT_MEASURED


def _sae_view(name: str, fact: Mapping[str, Any] | None, catalogue: Catalogue) -> SaeView:
    record = catalogue.atlas.saes.get(name)
    known = fact or {}
    metrics = known.get("metrics")
    return SaeView(
        sae=name,
        site=name.partition("/")[0],
        width=record.width if record else known["width"],
        described=record is not None,
        n_alive=record.n_alive if record else None,
        n_tokens=record.n_tokens if record else None,
        target_l0=known.get("target_l0"),
        seed=known.get("seed"),
        trained_tokens=known.get("trained_tokens"),
        metrics=_finite(metrics) if metrics else None,
        facts=_finite({key: known[key] for key in known if key not in SaeView.__slots__}),
    )


def _finite(tree: Any) -> Any:
    """JSON has no NaN: say null instead."""
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
