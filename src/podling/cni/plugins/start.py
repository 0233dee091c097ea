"""Starting a plugin as a program: modules out of one file, each when it is first used.

A plugin that is executed lives for ten milliseconds, and finding, reading and running fifty modules would
take longer than all it does to the kernel. `podling.cni.bundle` therefore puts their code, as the interpreter
has compiled it, into one file. The executable runs this module out of it and calls `begin`. From then on

- a module is there at once, and its code runs when something is first asked of it: ADD does not pay for what
  CHECK needs. A module whose file is not the one the bundle was made from is imported as ever;
- `os` and `functools` have only the names plugins use. The real ones, which bring twenty other modules along,
  are imported when anything else is asked of them.

Nothing here changes what a plugin does, and without a bundle plugins do the same, later. This module imports
nothing that is not built into the interpreter.
"""

from __future__ import annotations

import _imp
import _thread
import gc
import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    # Where the module's file is, its mtime and size; the place and length of its code in the bundle (length
    # 0: an extension module, which the file itself is); the folder of a package, else "".
    Entry = tuple[str, int, int, int, int, str]
else:
    ModuleType = type(sys)
    ModuleSpec = type(sys.__spec__)  # importlib's own, which is frozen into the interpreter

S_IFMT, S_IFDIR = 0o170000, 0o040000  # <sys/stat.h>

_late: dict[str, Entry] = {}  # modules whose code has not run yet
_running = _thread.RLock()
_bundle = -1  # the descriptor; open as long as the process


def begin(fd: int, index: dict[str, Entry]) -> None:
    """Have the modules of the bundle behind `fd`, parents before their children."""
    global _bundle
    _bundle = fd
    _late.update(index)
    gc.disable()  # there is little to find in ten milliseconds, and each look takes one
    modules = sys.modules
    modules["__future__"] = Lean("__future__", annotations=None)  # of which every module asks that
    if "os" not in modules:
        modules["os"] = _lean_os()
        modules["os.path"] = modules["os"].path
    if "functools" not in modules:
        modules["functools"] = Lean(
            "functools",
            total_ordering=_total_ordering,
            lru_cache=_lru_cache,
            cached_property=CachedProperty,
        )
    for name, (file, _, _, _, _, folder) in index.items():
        if name in modules:
            continue
        module = modules[name] = Late(name)
        parent, _, child = name.rpartition(".")
        known = module.__dict__
        known["__file__"] = file
        known["__package__"] = parent
        if folder:
            known["__path__"] = [folder]
            known["__package__"] = name
        if parent:
            setattr(modules[parent], child, module)


class Late(ModuleType):
    """A module whose code runs when it is first asked for a name."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # the import system asks whether this is a package
            raise AttributeError(name)
        with _running:
            # No entry: another thread has run it, or this one is at it (modules that import each other).
            entry = _late.pop(self.__name__, None)
            if entry is not None:
                _run(self, entry)
                self.__class__ = ModuleType  # type: ignore[assignment]
        if type(self) is not Late:
            return getattr(self, name)
        raise AttributeError(f"partially initialized module {self.__name__!r} has no attribute {name!r}")


def _run(module: ModuleType, entry: Entry) -> None:
    file, mtime_ns, size, place, length, _ = entry
    name = module.__name__
    try:
        info = posix.stat(file)
        current = (info.st_mtime_ns, info.st_size) == (mtime_ns, size)
    except OSError:
        current = False
    if not current:
        del sys.modules[name]
        __import__(name)
        module.__dict__.update(sys.modules[name].__dict__)
    elif length:
        exec(marshal.loads(posix.pread(_bundle, length, place)), module.__dict__)
    else:
        extension = _imp.create_dynamic(ModuleSpec(name, None, origin=file))
        _imp.exec_dynamic(extension)
        module.__dict__.update(extension.__dict__)


# --- the lean standard library


class Lean(ModuleType):
    """Some names of a standard module; asked for any other it imports the real one, which takes its place."""

    def __init__(self, name: str, **names: Any) -> None:
        super().__init__(name)
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        if name in ("__path__", "__spec__"):  # the import system asks
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


def _real(name: str) -> ModuleType:
    if half_begun := sys.modules.get("_plugin_python"):
        half_begun.finish()  # some of it may be compiled in, and takes a whole interpreter for granted
    if type(sys.modules.get(name)) is Lean:
        del sys.modules[name]
    return __import__(name)


def _lean_os() -> Lean:
    names = {name: value for name, value in vars(posix).items() if name[0] != "_" or name == "_exit"}
    environ = {_text(key): _text(value) for key, value in posix.environ.items()}
    path = Lean("posixpath", join=_join, exists=_exists, isdir=_isdir)
    return Lean("os", **(names | {"environ": environ, "path": path}))


def _join(path: str, *more: str) -> str:
    for part in more:
        path = part if part[:1] == "/" or not path else path + part if path[-1] == "/" else f"{path}/{part}"
    return path


def _exists(path: str) -> bool:
    try:
        posix.stat(path)
    except (OSError, ValueError):
        return False
    return True


def _isdir(path: str) -> bool:
    try:
        return posix.stat(path).st_mode & S_IFMT == S_IFDIR
    except (OSError, ValueError):
        return False


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")  # as `os.fsdecode`: plugins run in UTF-8 mode or locale


def _total_ordering(cls: type) -> type:
    """For classes with `__lt__`, as those of `ipaddress` are."""
    if "__lt__" not in vars(cls):
        made: type = _real("functools").total_ordering(cls)
        return made
    for method in (__gt__, __le__, __ge__):
        if method.__name__ not in vars(cls):
            setattr(cls, method.__name__, method)
    return cls


def __gt__(self: Any, other: Any) -> Any:
    less = type(self).__lt__(self, other)
    return less if less is NotImplemented else not less and self != other


def __le__(self: Any, other: Any) -> Any:
    less = type(self).__lt__(self, other)
    return less if less is NotImplemented else less or self == other


def __ge__(self: Any, other: Any) -> Any:
    less = type(self).__lt__(self, other)
    return less if less is NotImplemented else not less


def _lru_cache(*args: Any, **kwargs: Any) -> Any:
    """`ipaddress` remembers answers; within ten milliseconds nobody asks again."""
    if args and callable(args[0]):
        return args[0]
    return lambda function: function


class CachedProperty:
    """Computed when first asked for, then an attribute like any other."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute = compute

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._compute(instance)
        return value
