"""The configurations of a repository: each is read once, as JSON, and all of them in little memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from modelcache.core import git_lfs
from modelcache.core.errors import PolicyError
from modelcache.core.names import problem_with_path
from modelcache.core.types import LARGEST_TEXT, ListedFile


class ConfigFiles:
    """The JSON files of one repository, as its listing names them; `refuse` takes a reason and a hint."""

    def __init__(
        self,
        files: Mapping[str, ListedFile],
        read: Callable[[ListedFile], bytes],
        refuse: Callable[[str, str], None],
        *,
        directory: bool,
    ) -> None:
        self.links: set[str] = set()
        """Paths that were asked for and are links, or something else that is no file."""
        self._files = files
        self._read = read
        self._refuse = refuse
        self._directory = directory
        self._contents: dict[str, bytes] = {}
        self._documents: dict[str, Mapping[str, Any]] = {}

    def read_json(self, path: str) -> Mapping[str, Any]:
        """Return a JSON file as a mapping (a list under "entries"); empty where there is none under a plain name."""
        if path not in self._files or problem_with_path(path):
            return {}
        if path not in self._documents:
            try:
                content = json.loads(self.read(path))
            except PolicyError as error:
                self._refuse(error.message, error.hint)
                content = {}
            except (ValueError, RecursionError):
                self._refuse(f"{path} is not JSON", "tell the owner that the repository is broken")
                content = {}
            self._documents[path] = content if isinstance(content, dict) else {"entries": content}
        return self._documents[path]

    def read(self, path: str) -> bytes:
        """Return a configuration, which is read once.

        Raises:
            PolicyError: it is a git-lfs pointer, or too large, alone or together with those before it.

        """
        if path not in self._contents:
            if (size := self._files[path].size) > LARGEST_TEXT:
                message = f"{path} has {size} bytes, too many for a configuration"
                raise PolicyError(message, hint="tell the owner that the repository is broken")
            if sum(map(len, self._contents.values())) + size > LARGEST_TEXT:
                message = f"{path} and the configurations before it have more than {LARGEST_TEXT} bytes"
                raise PolicyError(message, hint="use another repository")
            if not self._files[path].plain:
                self.links.add(path)
                return b"{}"
            content = self._read(self._files[path])
            if git_lfs.is_pointer(content):
                raise PolicyError(git_lfs.problem(path), hint=git_lfs.way_out(directory=self._directory))
            self._contents[path] = content
        return self._contents[path]

    def read_card(self) -> str:
        """Return the model's card (README.md) with Unix line ends; empty where there is none, or too large a one."""
        file = self._files.get("README.md")
        if file is None or not file.plain or file.size > LARGEST_TEXT:
            return ""
        return self._read(file).decode("utf-8", "replace").replace("\r\n", "\n")
