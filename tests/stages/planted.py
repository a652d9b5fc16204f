"""A small atlas whose features are known: each fires on one word, or after one, or at random."""

from pathlib import Path
from random import Random

from tests.atlas.one_by_one import write_features

from panscope.atlas.features import Atlas, write_contexts, write_pieces
from panscope.atlas.records import Context, Example, Feature, SaeRecord
from panscope.files import seal

WORDS = ["may", "june", "river", "lamp", "blue", "the", "of", "on", "cat", "door", "red", "snow"]
PIECES = ["<bos>", ".", *(f" {word}" for word in WORDS)]
SAES = ("mlp_out.0/w6", "resid_post.0/w6")
N_ROWS, N_TOKENS = 60, 48


def rows(seed: int = 0) -> list[Context]:
    """Rows of random words, each row of two documents of its own."""
    random = Random(seed)
    made = []
    for number in range(N_ROWS):
        tokens = (0, *(random.randrange(1, len(PIECES)) for _ in range(N_TOKENS - 1)))
        cut = random.randrange(4, N_TOKENS - 4)
        documents = tuple(2 * number + (p >= cut) for p in range(N_TOKENS))
        made.append(Context(number, tokens, documents, "news" if number % 2 else "verse"))
    return made


def value(index: int, row: Context, position: int) -> float:
    """Feature 0 fires on may, 1 on river and snow, 2 after the, 3 after "of", 4 at random."""
    word, before = (PIECES[row.tokens[p]].strip() for p in (position, position - 1))
    loud = 1 + (row.context * 7 + position) % 5 / 10
    fires = {
        0: word == "may",
        1: word in ("river", "snow"),
        2: before == "the",
        3: before == "of" and position > 1,
        4: Random(f"{row.context} {position}").random() < 0.08,
    }
    return loud if fires.get(index, False) else 0.0


def feature(index: int, contexts: list[Context]) -> Feature:
    """A feature with an example of each of its first twenty rows."""
    examples = []
    for row in contexts:
        fired = {p: v for p in range(1, N_TOKENS) if (v := value(index, row, p))}
        if fired and len(examples) < 20:
            peak = max(fired, key=fired.__getitem__)
            example = Example(
                len(examples) % 4 - 1, row.context, peak, (*fired,), (*fired.values(),)
            )
            examples.append(example)
    n = len(examples)
    nothing: tuple[int, ...] = ()
    return Feature(
        index,
        n,
        n / 2820,
        1.4,
        1.2,
        nothing,
        nothing,
        (),
        nothing,
        (),
        nothing,
        (),
        (),
        (*examples,),
    )


def build(run: Path) -> Atlas:
    """Write the atlas into a run folder: six features a Sae, the last one dead."""
    contexts = rows()
    (run / "atlas").mkdir(parents=True)
    for sae in SAES:
        write_features(run / "atlas", sae, [feature(index, contexts) for index in range(6)])
    write_contexts(run / "atlas", contexts)
    write_pieces(run / "atlas", PIECES)
    records = [SaeRecord(sae, sae.split("/")[0], 6, 2820, 5, (0.1, 1.0, 2.0)) for sae in SAES]
    facts = [{name: getattr(r, name) for name in SaeRecord.__slots__} for r in records]
    seal(run / "atlas", "atlas", {}, {}, {"saes": facts})
    return Atlas(run / "atlas")
