"""How a process that runs a model's code is confined, as a value and in words. No system call is made here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Confinement:
    """The steps that confine a process, each true only if the kernel has accepted it."""

    namespaces: bool = False
    """Its own network, mounts, processes and memory."""
    privileges: bool = False
    """It has no capability and gets none."""
    seccomp: bool = False
    landlock: bool = False
    subreaper: bool = False
    """Every process that it starts can be found and killed."""
    no_network: bool = False
    """The machine has no network but loopback."""

    @property
    def holds(self) -> bool:
        """Whether a model's code can reach neither the network nor files that are not its own."""
        return self.privileges and (self.namespaces or (self.seccomp and self.landlock))

    @property
    def network(self) -> str:
        """How the network is cut."""
        if self.namespaces:
            return "a network namespace of its own"
        return f"{'no network here, and ' * self.no_network}{'seccomp and ' * self.seccomp}blocked Python sockets"

    @property
    def disk(self) -> str:
        """How files are kept from it."""
        if self.namespaces:
            return "read-only"
        return "only the libraries and the model, read-only" if self.landlock else "not restricted"

    @property
    def steps(self) -> list[str]:
        """The steps that were taken."""
        steps = {
            "namespaces": self.namespaces,
            "no privileges": self.privileges,
            "seccomp": self.seccomp,
            "Landlock": self.landlock,
            "a subreaper": self.subreaper,
            "a clean environment": True,
        }
        return [step for step, taken in steps.items() if taken]
