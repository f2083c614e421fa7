"""The repositories in which a model's code lies: its own, and those that its configurations name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modelcache.core import git_lfs
from modelcache.core.errors import AccessDeniedError, NotOnHubError, PolicyError
from modelcache.core.interfaces import Repository
from modelcache.core.text import sentence
from modelcache.core.types import ListedFile
from modelcache.resolver.code_references import hint_without_code, references


class CodeRepositories:
    """Each is opened once, at its `main`; `configs` are the configurations that may name code."""

    def __init__(
        self,
        model_id: str,
        own: Repository,
        configs: Mapping[str, bytes],
        open_repository: Callable[[str, str], Repository],
    ) -> None:
        self._model_id = model_id
        self._configs = configs
        self._open_repository = open_repository
        self._opened = {model_id: own}

    @property
    def listings(self) -> Mapping[str, Mapping[str, ListedFile]]:
        """The files of each repository that code was read from."""
        return {name: repository.files for name, repository in self._opened.items()}

    def open(self, name: str) -> Repository:
        """Return a repository."""
        if name not in self._opened:
            self._opened[name] = self._open_repository(name, "main")
        return self._opened[name]

    def read(self, name: str, path: str) -> bytes | None:
        """Return a file of code, or None where the repository has no such file.

        Raises:
            HubError: the repository cannot be had; the hint says how the model is shipped without its code.
            PolicyError: the file is a git-lfs pointer.

        """
        try:
            repository = self.open(name)
            content = repository.read(repository.files[path]) if path in repository.files else None
        except (NotOnHubError, AccessDeniedError) as error:
            if name == self._model_id:
                raise
            named = [reference for config in self._configs.items() for reference in references(*config)]
            hint = f"{error.hint} {sentence(hint_without_code(named))}".rstrip()
            raise type(error)(f"{self._model_id} names code of {name}: {error.message}", hint=hint) from error
        if content is not None and git_lfs.is_pointer(content):
            hint = sentence(git_lfs.way_out(directory=not repository.commit))
            raise PolicyError(f"{self._model_id}: {git_lfs.problem(path)} ({name})", hint=hint)
        return content
