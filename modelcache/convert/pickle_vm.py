"""A pickle interpreter that can build tensors, and can call nothing.

It knows the opcodes that torch.save uses, and no others. Its only values are texts, numbers, tuples, lists,
dictionaries, storages and tensors. torch's own weights_only unpickler is made the same way.

The unpicklers of the standard library are not safe enough. `pickle.Unpickler` with a guarded `find_class` has no
bounds (a memo index of 2^31 takes 16 GB, a nested tuple as a key is hashed for ever), and its BUILD sets attributes.
`pickletools.genops` decodes an argument before its opcode can be refused: 8 MiB of digits take 20 minutes where
PYTHONINTMAXSTRDIGITS is 0. It also undoes escapes in names of classes, which pickle does not, and its warnings about
them print bytes of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from modelcache.convert.torch_file import RefusedError
from modelcache.convert.torch_values import NAMES, Function, Storages, call, describe
from modelcache.core.text import quote

# A tensor takes some 45 opcodes and 200 bytes, so these are for 20,000 tensors in one file.
_MAX_OPCODES = 1_000_000
MAX_PICKLE = 8 << 20
"""Bytes; a longer one is not even read."""


def unpickle(code: bytes, storages: Storages) -> object:
    """Return the value of a pickle."""
    return _Machine(code, storages).run()


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, code: bytes, storages: Storages) -> None:
        self._code = code
        self._position = 0
        self._storages = storages
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        for _ in range(_MAX_OPCODES):
            opcode = self.read(1)
            if opcode == b".":
                if len(self._stack) != 1 or self._marks or self._position != len(self._code):
                    raise RefusedError("its pickle is damaged: it does not end with one value")
                return self._stack[0]
            execute = _OPCODES.get(opcode)
            if execute is None:
                raise RefusedError(
                    f"its pickle uses the opcode {_opcode_name(opcode)}, which a state dict has no use for"
                )
            execute(self)
        raise RefusedError(f"its pickle has more than {_MAX_OPCODES} opcodes")

    def read(self, count: int) -> bytes:
        data = self._code[self._position : self._position + count]
        if len(data) < count:
            raise RefusedError("its pickle is cut short")
        self._position += count
        return data

    def number(self, count: int) -> int:
        return int.from_bytes(self.read(count), "little")

    def line(self) -> str:
        """Return the next line, which is part of a dotted name."""
        end = self._code.find(b"\n", self._position, self._position + 256)
        if end < 0:
            raise RefusedError("its pickle has a name of more than 255 characters")
        line = self.read(end + 1 - self._position)
        return line[:-1].decode("utf-8", "replace")

    def push(self, value: object) -> None:
        self._stack.append(value)

    def pop(self) -> object:
        """Take the top of the stack, unless it lies below a mark."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise RefusedError("its pickle is damaged: it takes a value that is not there")
        return self._stack.pop()

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def pop_to_mark(self) -> list[object]:
        """Take everything above the last mark, and the mark."""
        if not self._marks:
            raise RefusedError("its pickle is damaged: it takes a mark that is not there")
        height = self._marks.pop()
        values = self._stack[height:]
        del self._stack[height:]
        return values

    def pop_many(self, count: int) -> tuple[object, ...]:
        """Take a few values, the oldest first."""
        return tuple([self.pop() for _ in range(count)][::-1])

    def put(self, index: int) -> None:
        """Keep the top of the stack in the memo."""
        value = self.pop()
        self.push(value)
        self._memo[index] = value

    def get(self, index: int) -> None:
        """Push a value of the memo."""
        if index not in self._memo:
            raise RefusedError("its pickle is damaged: it reads a memo entry that it never wrote")
        self.push(self._memo[index])

    def protocol(self) -> None:
        """Accept the one protocol that torch.save uses, and torch.load with weights_only reads."""
        if (number := self.number(1)) != 2:
            raise RefusedError(f"its pickle is of protocol {number}, and torch writes 2")

    def text(self) -> None:
        try:
            self.push(self.read(self.number(4)).decode())
        except UnicodeDecodeError:
            raise RefusedError("its pickle holds a string that is not UTF-8") from None

    def long(self) -> None:
        """Push a number that may need eight bytes."""
        size = self.number(1)
        if size > 8:
            raise RefusedError(f"its pickle holds a number of {size} bytes")
        self.push(int.from_bytes(self.read(size), "little", signed=True))

    def global_name(self) -> None:
        """Push the value that stands for a name here."""
        name = f"{self.line()}.{self.line()}"
        if name not in NAMES:
            raise RefusedError(f"its pickle asks for {quote(name)}, which is no part of a plain tensor")
        self.push(NAMES[name])

    def set_items(self, pairs: list[object]) -> None:
        """Put keys and values into the dictionary on top of the stack."""
        table = self.pop()
        if type(table) is not dict or len(pairs) % 2:
            raise RefusedError("its pickle is damaged: it fills what is not a dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Only strings: the hash of a nested tuple can take for ever.
            if type(key) is not str:
                raise RefusedError(f"a dictionary in it has a key that is not a string but {describe(key)}")
            table[key] = value
        self.push(table)

    def extend(self, values: list[object]) -> None:
        """Add to the list on top of the stack."""
        found = self.pop()
        if type(found) is not list:
            raise RefusedError("its pickle is damaged: it adds to what is not a list")
        found.extend(values)
        self.push(found)

    def reduce(self) -> None:
        """Push the result of one of the four functions."""
        function, arguments = self.pop_many(2)
        if not isinstance(function, Function) or type(arguments) is not tuple:
            raise RefusedError(f"its pickle calls {describe(function)}")
        self.push(call(function, arguments))

    def build(self) -> None:
        """Drop the `_metadata` of a state dict: versions of modules, which safetensors has no place for."""
        state, table = self.pop(), self.pop()
        if type(table) is not dict or type(state) is not dict or state.keys() - {"_metadata"}:
            raise RefusedError(f"its pickle sets the state of {describe(table)}")
        self.push(table)

    def storage(self) -> None:
        """Push the storage that a persistent id names; it can name nothing else."""
        self.push(self._storages.by_id(self.pop()))


_OPCODES: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"c": _Machine.global_name,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"Q": _Machine.storage,
    b"q": lambda machine: machine.put(machine.number(1)),
    b"r": lambda machine: machine.put(machine.number(4)),
    b"h": lambda machine: machine.get(machine.number(1)),
    b"j": lambda machine: machine.get(machine.number(4)),
    b"(": _Machine.mark,
    b"t": lambda machine: machine.push(tuple(machine.pop_to_mark())),
    b")": lambda machine: machine.push(()),
    b"\x85": lambda machine: machine.push(machine.pop_many(1)),
    b"\x86": lambda machine: machine.push(machine.pop_many(2)),
    b"\x87": lambda machine: machine.push(machine.pop_many(3)),
    b"}": lambda machine: machine.push({}),
    b"s": lambda machine: machine.set_items(list(machine.pop_many(2))),
    b"u": lambda machine: machine.set_items(machine.pop_to_mark()),
    b"]": lambda machine: machine.push([]),
    b"a": lambda machine: machine.extend([machine.pop()]),
    b"e": lambda machine: machine.extend(machine.pop_to_mark()),
    b"X": _Machine.text,
    b"K": lambda machine: machine.push(machine.number(1)),
    b"M": lambda machine: machine.push(machine.number(2)),
    b"J": lambda machine: machine.push(int.from_bytes(machine.read(4), "little", signed=True)),
    b"\x8a": _Machine.long,
    b"G": lambda machine: machine.push(struct.unpack(">d", machine.read(8))[0]),
    b"N": lambda machine: machine.push(None),
    b"\x88": lambda machine: machine.push(True),
    b"\x89": lambda machine: machine.push(False),
}


def _opcode_name(opcode: bytes) -> str:
    from pickletools import opcodes

    return next((known.name for known in opcodes if known.code == opcode.decode("latin-1")), opcode.hex())
