"""The Hub: where foreign files lie, and where suites and atlases go; the one door to it.

A source is a folder here, or `hf://owner/name`, of which only what is chosen is fetched, into the
Hub's own cache. `push` sends an artefact in one commit: files that a broken attempt has sent
already are not sent again, and nobody sees half of it. `pull` fetches files first and the manifest
last, and goes on where it was stopped. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    constants,
    hf_hub_download,
    scan_cache_dir,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from panscope import files
from panscope.config import digest_of
from panscope.errors import ConfigError, Corrupt, NotFound, PanscopeError, nearest

HUB = "hf://"
DATASETS = "datasets/"
TYPES = {"suite": "model", "atlas": "dataset"}


@dataclass(frozen=True, slots=True)
class Folder:
    """A source on this machine."""

    root: Path
    names: tuple[str, ...]

    def fetched(self, name: str) -> Path:
        """Return where a file is."""
        return self.root / name

    def digest(self, names: Sequence[str]) -> str:
        """Name the content of some files."""
        return digest_of({name: files.blake3_of(self.root / name) for name in names})


@dataclass(frozen=True, slots=True)
class Repository:
    """A source on the Hub, at one commit."""

    repo: str
    commit: str
    names: tuple[str, ...]

    def fetched(self, name: str) -> Path:
        """Fetch a file, and the JSON beside and above it; return where it is."""
        above = {parent.as_posix() for parent in PurePosixPath(name).parents}
        beside = (n for n in self.names if n.endswith(".json") and _folder(n) in above)
        with _explained(self.repo):
            for other in beside:
                hf_hub_download(self.repo, other, revision=self.commit)
            return Path(hf_hub_download(self.repo, name, revision=self.commit))

    def digest(self, names: Sequence[str]) -> str:
        """Name the content of some files: that of a commit does not change."""
        return digest_of({"commit": self.commit, "names": list(names)})


def locate(source: str, revision: str | None) -> Folder | Repository:
    """Find a source and list its files; offline, those of the Hub that were fetched before."""
    if not source.startswith(HUB):
        return _folder_at(Path(source))
    repo = source.removeprefix(HUB).strip("/")
    with _explained(repo):
        if constants.HF_HUB_OFFLINE:
            return _folder_at(_cached(repo, revision))
        info = HfApi().model_info(repo, revision=revision)
    names = tuple(sorted(file.rfilename for file in info.siblings or ()))
    for name in names:
        refuse_outside(repo, name)
    assert info.sha is not None
    return Repository(repo, info.sha, names)


def push(folder: Path, repo: str, card: str, private: bool) -> str:
    """Send a suite or an atlas with its card to `owner/name`; return the commit's address."""
    manifest = files.read_manifest(folder)
    if manifest.kind not in TYPES:
        found = f"is a {manifest.kind}"
        raise ConfigError(str(folder), found, f"push {' or '.join(TYPES)}")
    for problem in files.verify(folder):
        raise problem
    names = (*sorted(manifest.files), files.MANIFEST)
    sent = [CommitOperationAdd(name, folder / name) for name in names]
    sent.append(CommitOperationAdd("README.md", card.encode()))
    with _explained(repo):
        api, kind = HfApi(), TYPES[manifest.kind]
        api.create_repo(repo, private=private, repo_type=kind, exist_ok=True)
        message = f"panscope {manifest.kind} {manifest.digest[:12]}"
        return api.create_commit(repo, sent, commit_message=message, repo_type=kind).commit_url


def pull(source: str, into: Path, revision: str | None) -> files.Manifest:
    """Fetch an artefact from `hf://owner/name` or `hf://datasets/owner/name` into a folder.

    A folder that holds it already is left as it is; ConfigError if it holds another.
    """
    repo = source.removeprefix(HUB).strip("/")
    kind = "dataset" if repo.startswith(DATASETS) else "model"
    repo = repo.removeprefix(DATASETS)
    with _explained(repo):
        place = hf_hub_download(repo, files.MANIFEST, revision=revision, repo_type=kind)
    manifest = files.read_manifest(Path(place).parent)
    if files.made(into, manifest.kind, manifest.config, manifest.inputs):
        return files.read_manifest(into)
    for name in manifest.files:
        refuse_outside(repo, name)
    with _explained(repo):
        wanted = list(manifest.files)
        snapshot_download(
            repo, revision=revision, repo_type=kind, local_dir=into, allow_patterns=wanted
        )
    for name, record in manifest.files.items():
        if problem := files.problem_with(into / name, record):
            raise problem
    shutil.rmtree(into / ".cache", ignore_errors=True)
    files.write_bytes(into / files.MANIFEST, Path(place).read_bytes())
    return manifest


def _cached(repo: str, revision: str | None) -> Path:
    """Find the last commit of which something was fetched; NotFound if there is none."""
    where = Path(constants.HF_HUB_CACHE)
    known = scan_cache_dir(where).repos if where.is_dir() else ()
    commits = [
        commit
        for found in known
        if (found.repo_id, found.repo_type) == (repo, "model")
        for commit in found.revisions
        if revision in (None, commit.commit_hash, *commit.refs)
    ]
    if not commits:
        do = "unset HF_HUB_OFFLINE, or fetch it where there is a network"
        raise NotFound(f"{HUB}{repo}", "was not fetched before", do)
    return max(commits, key=lambda commit: commit.last_modified).snapshot_path


def _folder_at(root: Path) -> Folder:
    if not root.is_dir():
        beside = [path.name for path in root.parent.glob("*") if path.is_dir()]
        do = f"check the path ({nearest(root.name, beside)}), or write {HUB}owner/name"
        raise NotFound(str(root), "no such folder", do)
    found = (path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file())
    hidden = (name for name in found if not any(part.startswith(".") for part in name.parts))
    return Folder(root, tuple(name.as_posix() for name in hidden))


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()


def refuse_outside(repo: str, name: str) -> None:
    """Raise Corrupt for a name that leads out of the folder that it is put in."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise Corrupt(
            f"{HUB}{repo}: {name}", "leads out of its folder", "do not use that repository"
        )


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what the Hub's library raises into one sentence; the network's are of many kinds."""
    where, unreachable = f"{HUB}{repo}", Exception
    try:
        yield
    except PanscopeError:
        raise
    except HFValidationError as error:
        raise ConfigError(
            where, f"is no repository's name ({error})", "write owner/name"
        ) from error
    except GatedRepoError as error:
        do = "accept its terms on the Hub and set HF_TOKEN"
        raise NotFound(where, "is gated", do) from error
    except RevisionNotFoundError as error:
        raise NotFound(where, "has no such revision", "check --revision") from error
    except RepositoryNotFoundError as error:
        do = "check the name; private ones need HF_TOKEN"
        raise NotFound(where, "is not on the Hub", do) from error
    except LocalEntryNotFoundError as error:
        do = "unset HF_HUB_OFFLINE or check the network; what was fetched is kept"
        raise NotFound(where, "is not here and could not be fetched", do) from error
    except unreachable as error:
        do = "run it again: what has gone through is kept"
        raise PanscopeError(where, f"could not be reached ({error})", do) from error
