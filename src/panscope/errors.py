"""What can go wrong, sorted by what the caller should do about it.

Every message has three parts: where it was found, what was found, and what to do.

| error       | exit | HTTP | the caller should            |
|-------------|------|------|------------------------------|
| ConfigError | 2    | 422  | correct what they typed      |
| NotFound    | 3    | 404  | name something that exists   |
| Corrupt     | 4    | 500  | restore or remake the file   |
| Incomplete  | 5    | 409  | let the stage finish         |
| Unsupported | 6    | 422  | use another model or format  |
| Interrupted | 130  | 503  | run the same command again   |
"""

import difflib
import signal
from collections.abc import Iterable


class PanscopeError(Exception):
    """A failure that the user can act on; its text says how."""

    exit_code = 1
    http_status = 500

    def __init__(self, where: str, found: str, do: str) -> None:
        super().__init__(
            where, found, do
        )  # as they are: so that a worker's reaches another process

    def __str__(self) -> str:
        """Join the three parts."""
        where, found, do = self.args[:3]
        return f"{where}: {found}; {do}"


class ConfigError(PanscopeError, ValueError):
    """Something the user wrote cannot be used."""

    exit_code = 2
    http_status = 422


class NotFound(PanscopeError, LookupError):
    """Something the user named does not exist."""

    exit_code = 3
    http_status = 404


class Corrupt(PanscopeError):
    """A file's bytes are not the bytes that were written."""

    exit_code = 4


class Incomplete(PanscopeError):
    """An artefact was begun and not sealed."""

    exit_code = 5
    http_status = 409


class Unsupported(PanscopeError):
    """A model, format version or device that panscope cannot handle."""

    exit_code = 6
    http_status = 422


class Interrupted(PanscopeError):
    """A signal stopped the work at a place from which the same command goes on.

    Exits as a shell reports a process that the signal ended: 130 for SIGINT, 143 for SIGTERM.
    """

    exit_code = 130
    http_status = 503

    def __init__(self, where: str, found: str, do: str, by: signal.Signals) -> None:
        super().__init__(where, found, do)
        self.args = (where, found, do, by)
        self.exit_code = 128 + by


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Say which known names are closest to a wrong one.

    >>> nearest("resid_pots", ["resid_post", "mlp_out"])
    'did you mean resid_post?'
    >>> nearest("zzz", ["a", "b"])
    'known: a, b'
    >>> nearest("resid_pots.1/x", ["resid_post.1/w2048_l0_20", "mlp_out.1/w2048_l0_20"])
    'did you mean resid_post.1/w2048_l0_20?'
    """
    names = list(dict.fromkeys(known))
    close = difflib.get_close_matches(wrong, names, n=3, cutoff=0.6)
    if not close and "/" in wrong:  # by its first part: a Sae's is its site
        firsts = {name: name.partition("/")[0] for name in names}
        likely = difflib.get_close_matches(wrong.partition("/")[0], firsts.values(), n=1)
        close = [name for name, first in firsts.items() if first in likely][:3]
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {shown or 'none'}"
