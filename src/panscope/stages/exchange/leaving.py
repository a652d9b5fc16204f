"""A Sae on its way into a foreign format: what the suite knows of it, and what formats refuse."""

from dataclasses import dataclass
from typing import Any

from panscope.errors import Incomplete, Unsupported
from panscope.sae.sae import Sae
from panscope.sites import Site
from panscope.stages.exchange.foreign import Facts


@dataclass(frozen=True, slots=True)
class Leaving:
    """What goes with a Sae: its id, its facts, the model it is of if that is known."""

    sae: str
    facts: Facts
    model: str | None = None

    def l0(self) -> float:
        """Return the mean L0: measured, else wanted; Incomplete if neither is known."""
        found: Any = self.facts.get("metrics", {}).get("l0") or self.facts.get("l0")
        found = found or self.facts.get("target_l0")
        if found is None:
            do = "run panscope evaluate first: the format names Saes by it"
            raise Incomplete(self.sae, "has no L0", do)
        return float(found)

    def one_of_each(self, sae: Sae, form: str) -> tuple[Site, Site]:
        """Return the one site read and the one written; a crosscoder has more."""
        if len(sae.reads) > 1 or len(sae.writes) > 1:
            raise self._refused("is a crosscoder", f"{form} holds one site")
        if sae.size is not None:
            raise self._refused("has biases in each token's own size", f"{form} holds fixed ones")
        return sae.reads[0], sae.writes[0]

    def refuse_transcoder(self, sae: Sae, form: str) -> None:
        """Raise Unsupported for what writes another site than it reads."""
        reads, writes = self.one_of_each(sae, form)
        if reads != writes:
            raise self._refused("is a transcoder", f"{form} holds autoencoders")
        self.refuse_skip(sae, form)

    def refuse_skip(self, sae: Sae, form: str) -> None:
        """Raise Unsupported for a linear term."""
        if sae.skip is not None:
            raise self._refused("has a skip connection", f"{form} holds none")

    def refuse_k(self, sae: Sae, form: str) -> None:
        """Raise Unsupported for a k."""
        if sae.k is not None:
            raise self._refused(f"keeps the {sae.k} largest", f"{form} holds thresholds")

    def refuse_thresholds(self, sae: Sae, form: str) -> None:
        """Raise Unsupported for thresholds other than 0."""
        if bool((sae.threshold != 0).any()):
            raise self._refused("has thresholds", f"{form} holds none beside a k")

    def refuse_negative_thresholds(self, sae: Sae, form: str) -> None:
        """Raise Unsupported where a latent may be negative."""
        if bool((sae.threshold < 0).any()):
            raise self._refused("has negative thresholds", f"{form} cuts off at 0")

    def _refused(self, found: str, why: str) -> Unsupported:
        return Unsupported(self.sae, found, f"{why}: choose another format or other Saes")
