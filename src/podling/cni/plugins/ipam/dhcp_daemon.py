"""The daemon behind the dhcp plugin: it gets leases for containers and renews them as long as they live.

    dhcp daemon [-socketpath /run/cni/dhcp.sock] [-pidfile FILE] [-hostprefix DIR] [-broadcast]
                [-timeout 10s] [-resendmax 62s]

A plugin cannot renew a lease, since it ends with its call. It sends one JSON object over the socket and reads
one; each connection and each lease has a thread. Leases are written to SOCKETPATH.leases/, whole and one a
file: a daemon that is started anew goes on renewing what the one before it has got. A socket handed over by
systemd (LISTEN_FDS) is taken.

When a lease can be renewed no longer the interface is brought down, as the reference daemon does: somebody
else may have the address by then.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
import threading
import time

from podling.cni import jsontext
from podling.cni.plugins.ipam.dhcp_client import DHCPError, Exchange, Interface, Lease, Settings
from podling.linux.netlink import Netlink
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_SOCKET = "/run/cni/dhcp.sock"
REQUEST_MAX = 1 << 20  # bytes
RETRY_MIN_S, RETRY_MAX_S = 0.5, 60.0  # between two attempts to renew


@record
class DaemonConf:
    socket_path: str = DEFAULT_SOCKET
    pid_file: str = ""
    host_prefix: str = ""  # where the host's files are when the daemon is in a container
    settings: Settings = Settings()


class _Keeper:
    """One lease and the thread that renews it."""

    def __init__(
        self, daemon: Daemon, key: str, interface: Interface, options: dict[int, bytes], lease: Lease
    ) -> None:
        self.key, self.interface, self.options, self.lease = key, interface, options, lease
        self._daemon = daemon
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease {key}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_bounded(self.lease.renew_at - time.time())):
            if time.time() < self.lease.renew_at:
                continue
            if not self._renew():
                return

    def _renew(self) -> bool:
        """Try until it works (True), or there is nothing more to keep."""
        while True:
            now = time.time()
            if now >= self.lease.expires_at:
                return self._give_up("the lease has expired")
            try:
                with Exchange(self.interface, self._settings()) as exchange:
                    rebind = now >= self.lease.rebind_at
                    renewed = exchange.renew(self.lease, self.options, rebind=rebind)
                if renewed.address != self.lease.address:
                    return self._give_up(f"the server now offers {renewed.address}")
                self.lease = renewed
                self._daemon.save(self)
                return True
            except FileNotFoundError:
                self._daemon.forget(self.key)  # the container ended without a DEL
                return False
            except (DHCPError, OSError) as err:
                _log(f"{self.key}: renewing {self.lease.address}: {err}")
            phase_end = self.lease.rebind_at if now < self.lease.rebind_at else self.lease.expires_at
            pause = min(max((phase_end - time.time()) / 2, RETRY_MIN_S), RETRY_MAX_S)
            if self._stop.wait(pause):
                return False

    def _settings(self) -> Settings:
        # An exchange must end before the lease does.
        settings = self._daemon.conf.settings
        left = max(self.lease.expires_at - time.time(), RETRY_MIN_S)
        return Settings(
            timeout_s=min(settings.timeout_s, left),
            resend_max_s=settings.resend_max_s,
            broadcast=settings.broadcast,
        )

    def _give_up(self, reason: str) -> bool:
        _log(f"{self.key}: {reason}; {self.interface.name} is brought down")
        try:
            with Netlink(self.interface.netns) as nl:
                nl.link_set(self.interface.name, up=False)
        except OSError as err:
            _log(f"{self.key}: {err}")
        self._daemon.forget(self.key)
        return False


def _bounded(seconds: float) -> float:
    # Waits are cut so that a clock that is set forward is noticed, and infinity is none to wait for.
    return min(max(seconds, 0.0), 60.0)


class Daemon:
    def __init__(self, conf: DaemonConf) -> None:
        self.conf = conf
        self._directory = conf.socket_path + ".leases"
        self._keepers: dict[str, _Keeper] = {}
        self._lock = threading.Lock()  # of _keepers

    def serve(self) -> None:
        """Until SIGTERM or SIGINT."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._resume()
        listener = self._listen()
        if self.conf.pid_file:
            with open(self.conf.pid_file, "w") as file:
                file.write(f"{os.getpid()}\n")
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _listen(self) -> socket.socket:
        if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
            return socket.socket(fileno=3)
        path = self.conf.socket_path
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        draft = f"{path}.{os.getpid()}"
        listener.bind(draft)
        os.chmod(draft, 0o600)
        listener.listen(64)
        os.rename(draft, path)  # whoever finds the path can connect
        return listener

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            reply: dict[str, Any]
            try:
                request = _read(connection)
                reply = {"result": self._dispatch(request)}
            except (DHCPError, OSError, ValueError, KeyError, TypeError) as err:
                words = f"missing {err}" if isinstance(err, KeyError) else str(err)
                reply = {"error": words}
            try:
                connection.sendall(jsontext.dumps(reply).encode())
            except OSError:
                return  # the plugin was killed; the DEL that follows releases

    def _dispatch(self, request: dict[str, Any]) -> dict[str, Any]:
        method, key = request["method"], str(request["key"])
        if method == "allocate":
            return self._allocate(key, request)
        if method == "release":
            self._release(key)
        elif method == "gc":
            valid = set(request["valid"])
            for stale in [k for k in list(self._keepers) if k.split("/")[1] == key and k not in valid]:
                self._release(stale)
        elif method == "check":
            keeper = self._keepers.get(key)
            if keeper is None:
                raise DHCPError(f"no lease of {key} is known")
            return _result(keeper.lease)
        elif method != "status":
            raise ValueError(f"unknown method {method!r}")
        return {}

    def _allocate(self, key: str, request: dict[str, Any]) -> dict[str, Any]:
        self._release(key)  # an ADD before this one that nobody took back
        interface = Interface(netns=self.conf.host_prefix + request["netns"], name=request["ifname"])
        options = {int(code): bytes.fromhex(value) for code, value in request["options"].items()}
        with Exchange(interface, self.conf.settings) as exchange:
            lease = exchange.acquire(options)
        keeper = _Keeper(self, key, interface, options, lease)
        self.save(keeper)
        with self._lock:
            self._keepers[key] = keeper
        keeper.start()
        _log(f"{key}: got {lease.address} from {lease.server} for {lease.duration_s} s")
        return _result(lease)

    def _release(self, key: str) -> None:
        with self._lock:
            keeper = self._keepers.pop(key, None)
        if keeper is None:
            return
        keeper.stop()
        try:
            with Exchange(keeper.interface, self.conf.settings) as exchange:
                exchange.release(keeper.lease, keeper.options)
        except (DHCPError, OSError) as err:
            _log(f"{key}: cannot give {keeper.lease.address} back: {err}")  # it expires by itself
        self.forget(key)

    # --- what outlives the daemon

    def _path(self, key: str) -> str:
        return os.path.join(self._directory, key.replace("/", "%") + ".json")

    def save(self, keeper: _Keeper) -> None:
        lease = keeper.lease
        text = jsontext.dumps(
            {
                "key": keeper.key,
                "netns": keeper.interface.netns,
                "ifname": keeper.interface.name,
                "options": {str(code): value.hex() for code, value in keeper.options.items()},
                "address": str(lease.address),
                "given": {str(code): value.hex() for code, value in lease.options.items()},
                "server": str(lease.server),
                "serverMAC": lease.server_mac.hex(),
                "obtained": lease.obtained,
            }
        )
        draft = f"{self._path(keeper.key)}.draft"
        with open(draft, "w") as file:
            file.write(text)
        os.rename(draft, self._path(keeper.key))

    def forget(self, key: str) -> None:
        with self._lock:
            self._keepers.pop(key, None)
        try:
            os.unlink(self._path(key))
        except FileNotFoundError:
            return

    def _resume(self) -> None:
        for name in sorted(os.listdir(self._directory)):
            if not name.endswith(".json"):
                continue
            try:
                with open(os.path.join(self._directory, name), "rb") as file:
                    keeper = self._read_keeper(jsontext.loads(file.read()))
            except (OSError, ValueError, KeyError, TypeError) as err:
                _log(f"{name}: {err!r}")
                continue
            self._keepers[keeper.key] = keeper
            keeper.start()

    def _read_keeper(self, saved: dict[str, Any]) -> _Keeper:
        lease = Lease(
            address=ipaddress.IPv4Address(saved["address"]),
            options={int(code): bytes.fromhex(value) for code, value in saved["given"].items()},
            server=ipaddress.IPv4Address(saved["server"]),
            server_mac=bytes.fromhex(saved["serverMAC"]),
            obtained=float(saved["obtained"]),
        )
        options = {int(code): bytes.fromhex(value) for code, value in saved["options"].items()}
        interface = Interface(netns=saved["netns"], name=saved["ifname"])
        return _Keeper(self, saved["key"], interface, options, lease)


def _result(lease: Lease) -> dict[str, Any]:
    return {
        "address": str(lease.address),
        "options": {str(code): value.hex() for code, value in lease.options.items()},
    }


def _read(connection: socket.socket) -> dict[str, Any]:
    """A JSON object; the other side shuts its end when it is complete."""
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
        if len(data) > REQUEST_MAX:
            raise ValueError("the request is too long")
    request = jsontext.loads(data)
    if not isinstance(request, dict):
        raise ValueError("a request must be a JSON object")
    return request


def _log(words: str) -> None:
    print(f"dhcp: {words}", file=sys.stderr, flush=True)


# --- the command line, in the reference's spelling


def _seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for unit, factor in units.items():
        if text.endswith(unit) and text[: -len(unit)].replace(".", "", 1).isdigit():
            return float(text[: -len(unit)]) * factor
    raise ValueError(f"{text!r} is no duration, such as 10s")


def parse_arguments(arguments: list[str]) -> DaemonConf:
    """`ValueError` names what is wrong. One dash or two, `-flag value` or `-flag=value`."""
    found: dict[str, str] = {}
    left = list(arguments)
    known = ("socketpath", "pidfile", "hostprefix", "timeout", "resendmax", "resendtimeout")
    while left:
        flag, equals, value = left.pop(0).partition("=")
        name = flag.lstrip("-")
        if name == "broadcast":
            found[name] = value if equals else "true"
        elif not flag.startswith("-") or name not in known:
            raise ValueError(f"unknown argument {flag!r}")
        elif equals:
            found[name] = value
        elif left:
            found[name] = left.pop(0)
        else:
            raise ValueError(f"{flag} needs a value")
    default = Settings()
    return DaemonConf(
        socket_path=found.get("socketpath", DEFAULT_SOCKET),
        pid_file=found.get("pidfile", ""),
        host_prefix=found.get("hostprefix", ""),
        settings=Settings(
            timeout_s=_seconds(found["timeout"]) if "timeout" in found else default.timeout_s,
            resend_max_s=_seconds(found["resendmax"]) if "resendmax" in found else default.resend_max_s,
            broadcast=found.get("broadcast") == "true",
        ),
    )


def main(arguments: list[str]) -> int:
    try:
        conf = parse_arguments(arguments)
    except ValueError as err:
        _log(str(err))
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        Daemon(conf).serve()
    except OSError as err:
        _log(str(err))
        return 1
    return 0
