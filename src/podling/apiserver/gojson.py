"""Why a text is not JSON, in the words of Go's encoding/json, which kubectl's users know.

Only called for text that is known to be malformed, to explain it: `describe` walks it once, byte by byte,
with the expectations of Go's scanner.
"""

from __future__ import annotations

_SPACE = b" \t\r\n"
_DIGITS = b"0123456789"
_HEX = b"0123456789abcdefABCDEF"


class _Fault(Exception):
    pass


def describe(data: bytes) -> str:
    """`invalid character 'x' looking for beginning of value`, or `unexpected end of JSON input`."""
    scanner = _Scanner(data)
    try:
        scanner.value()
        scanner.expect_end()
    except _Fault as fault:
        return str(fault)
    except RecursionError:
        return "exceeded max depth"
    # Go's scanner lets invalid UTF-8 pass, where our decoder refuses it.
    return "invalid UTF-8 in string"


class _Scanner:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def value(self) -> None:
        first = self._next_token("looking for beginning of value")
        if first == b"{":
            self._object()
        elif first == b"[":
            self._array()
        elif first == b'"':
            self._string()
        elif first == b"-" or first in _DIGITS:
            self._number(first)
        elif first in b"tfn":
            self._literal({b"t": b"true", b"f": b"false", b"n": b"null"}[first])
        else:
            raise self._invalid(first, "looking for beginning of value")

    def expect_end(self) -> None:
        self._skip_space()
        if self._at < len(self._data):
            raise self._invalid(self._peek(), "after top-level value")

    def _object(self) -> None:
        context = "looking for beginning of object key string"
        if self._next_token(context, consume=False) == b"}":
            self._at += 1
            return
        while True:
            first = self._next_token(context)
            if first != b'"':
                raise self._invalid(first, context)
            self._string()
            colon = self._next_token("after object key")
            if colon != b":":
                raise self._invalid(colon, "after object key")
            self.value()
            after = self._next_token("after object key:value pair")
            if after == b"}":
                return
            if after != b",":
                raise self._invalid(after, "after object key:value pair")

    def _array(self) -> None:
        if self._next_token("looking for beginning of value", consume=False) == b"]":
            self._at += 1
            return
        while True:
            self.value()
            after = self._next_token("after array element")
            if after == b"]":
                return
            if after != b",":
                raise self._invalid(after, "after array element")

    def _string(self) -> None:
        while True:
            char = self._take()
            if char == b'"':
                return
            if char == b"\\":
                escape = self._take()
                if escape == b"u":
                    for _ in range(4):
                        digit = self._take()
                        if digit not in _HEX:
                            raise self._invalid(digit, "in \\u hexadecimal character escape")
                elif escape not in b'bfnrt\\/"':
                    raise self._invalid(escape, "in string escape code")
            elif char < b" ":
                raise self._invalid(char, "in string literal")

    def _number(self, first: bytes) -> None:
        if first == b"-":
            first = self._take()
            if first not in _DIGITS:
                raise self._invalid(first, "in numeric literal")
        if first != b"0":
            self._skip(_DIGITS)
        if self._peek() == b".":
            self._at += 1
            self._digits("after decimal point in numeric literal")
        if self._peek() and self._peek() in b"eE":
            self._at += 1
            if self._peek() and self._peek() in b"+-":
                self._at += 1
            self._digits("in exponent of numeric literal")

    def _digits(self, context: str) -> None:
        char = self._take()
        if char not in _DIGITS:
            raise self._invalid(char, context)
        self._skip(_DIGITS)

    def _literal(self, word: bytes) -> None:
        for index in range(1, len(word)):
            char = self._take()
            if char != word[index : index + 1]:
                raise self._invalid(
                    char, f"in literal {word.decode()} (expecting {_quote(word[index : index + 1])})"
                )

    def _next_token(self, context: str, *, consume: bool = True) -> bytes:
        self._skip_space()
        char = self._take()
        if not consume:
            self._at -= 1
        return char

    def _skip_space(self) -> None:
        self._skip(_SPACE)

    def _skip(self, chars: bytes) -> None:
        while self._at < len(self._data) and self._data[self._at] in chars:
            self._at += 1

    def _peek(self) -> bytes:
        return self._data[self._at : self._at + 1]

    def _take(self) -> bytes:
        char = self._peek()
        if not char:
            raise _Fault("unexpected end of JSON input")
        self._at += 1
        return char

    def _invalid(self, char: bytes, context: str) -> _Fault:
        return _Fault(f"invalid character {_quote(char)} {context}")


def _quote(char: bytes) -> str:
    """As Go's quoteChar: the byte as a Latin-1 character in single quotes."""
    if char == b"'":
        return r"'\''"
    if char == b'"':
        return "'\"'"
    named = {b"\n": r"\n", b"\r": r"\r", b"\t": r"\t", b"\\": r"\\", b"\a": r"\a", b"\b": r"\b", b"\f": r"\f"}
    code = char[0]
    if char in named:
        return f"'{named[char]}'"
    if code < 0x20 or code == 0x7F:
        return f"'\\x{code:02x}'"
    if 0x80 <= code < 0xA0 or code == 0xAD:
        return f"'\\u{code:04x}'"
    return f"'{char.decode('latin-1')}'"
