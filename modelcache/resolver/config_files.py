"""The configurations of a repository: each is read once, as JSON, and all of them in little memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelcache.core.errors import PolicyError
from modelcache.core.names import problem_with_path
from modelcache.core.text import size_in_words
from modelcache.core.types import LARGEST_TEXT, ListedFile
from modelcache.resolver.pinning import problem_with_pointer
from modelcache.resolver.reasons import BROKEN


@dataclass(slots=True)
class ConfigFiles:
    """The JSON files of one repository, as its listing names them."""

    files: Mapping[str, ListedFile]
    read_file: Callable[[ListedFile], bytes]
    refuse: Callable[[str, str], None]
    """Takes a reason and a hint."""
    directory: bool
    links: set[str] = field(default_factory=set)
    """Paths that were asked for and are links, or something else that is no file."""
    _contents: dict[str, bytes] = field(default_factory=dict)
    _documents: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def read_json(self, path: str) -> Mapping[str, Any]:
        """Return a JSON file as a mapping (a list under "entries"); empty where there is none under a plain name."""
        if path not in self.files or problem_with_path(path):
            return {}
        if path not in self._documents:
            content: Any = {}
            try:
                content = json.loads(self.read(path))
            except PolicyError as error:
                self.refuse(error.message, error.hint)
            except (ValueError, RecursionError):
                self.refuse(f"{path} is not JSON", BROKEN)
            self._documents[path] = content if isinstance(content, dict) else {"entries": content}
        return self._documents[path]

    def read(self, path: str) -> bytes:
        """Return a configuration, which is read once.

        Raises:
            PolicyError: it is a git-lfs pointer, or too large, alone or together with those before it.

        """
        if path not in self._contents:
            if (size := self.files[path].size) > LARGEST_TEXT:
                message = f"{path} has {size_in_words(size)}, too much for a configuration"
                raise PolicyError(message, hint=BROKEN)
            if sum(map(len, self._contents.values())) + size > LARGEST_TEXT:
                message = f"{path} and the configurations before it have more than {size_in_words(LARGEST_TEXT)}"
                raise PolicyError(message, hint="use another repository")
            if not self.files[path].plain:
                self.links.add(path)
                return b"{}"
            content = self.read_file(self.files[path])
            if problem := problem_with_pointer(path, content, directory=self.directory):
                raise PolicyError(problem[0], hint=problem[1])
            self._contents[path] = content
        return self._contents[path]

    def read_card(self) -> str:
        """Return the model's card (README.md) with Unix line ends; empty where there is none, or too large a one."""
        file = self.files.get("README.md")
        if file is None or not file.plain or file.size > LARGEST_TEXT:
            return ""
        return self.read_file(file).decode("utf-8", "replace").replace("\r\n", "\n")
