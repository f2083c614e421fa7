"""The front matter of a README.md, as far as the Hub's answers repeat it.

Reads the small part of YAML that model cards use, because the demo runs with no YAML library.
"""

from __future__ import annotations

Card = dict[str, "str | list[str]"]


def front_matter(readme: bytes) -> Card:
    """Read top-level scalars and lists; anything nested is left out."""
    lines = readme.decode(errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    card: Card = {}
    key = ""
    for line in lines[1:]:
        if line.strip() == "---":
            return card
        if line.lstrip().startswith("- ") and key:
            item, values = line.strip()[2:].strip(), card.get(key)
            if ": " not in item and isinstance(values, list):
                values.append(_plain(item))
        elif line[:1] not in ("", " ", "#", "-") and ":" in line:
            key, _, value = (part.strip() for part in line.partition(":"))
            card[key] = _value(value)
    return {}  # never closed: no front matter at all


def _value(text: str) -> str | list[str]:
    if not text:
        return []
    if text.startswith("[") and text.endswith("]"):
        return [_plain(item) for item in text[1:-1].split(",") if item.strip()]
    return _plain(text)


def _plain(text: str) -> str:
    return text.strip().strip("\"'")
