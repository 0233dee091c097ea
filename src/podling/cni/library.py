"""The CNI library: attaches containers to the network of a configuration directory, and detaches them.

    cni = CNI(Path("/etc/cni/net.d"), [Path("/opt/cni/bin")], Path("/var/lib/cni/results"))
    await cni.load()
    result = await cni.add(sandbox_id, "/run/netns/x")
    await cni.delete(sandbox_id, "/run/netns/x")

It owns the results cache and knows the directory's state; plugins own everything in the kernel. The caller
sees to it that one container has one operation at a time, and tells us to delete even when add was never
called or did not finish (CNI spec, "Lifecycle & Ordering").

Errors are `CNIError`; `NoNetworkError` means that there is no configuration (yet).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podling.cni import config
from podling.cni.cache import Attachment, ResultCache
from podling.cni.config import NetworkConfigList, PluginConf
from podling.cni.invoke import invoke, on_thread, to_the_end
from podling.cni.plugins import skel
from podling.cni.plugins.find import find_plugin, own_plugin
from podling.cni.plugins.main import loopback
from podling.cni.plugins.skel import Plugin
from podling.cni.types import INVALID_CONFIG, Args, CNIError, Result, parse_args

log = logging.getLogger(__name__)

IFNAME = "eth0"  # of a container's first network
TIMEOUT_S = 60.0  # for one plugin; a kubelet gives a sandbox two minutes


class NoNetworkError(CNIError):
    """No usable configuration in the directory; the details say why each file is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkStatus:
    """Whether pods can be attached, in the terms of the CRI's NetworkReady condition."""

    ready: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What stays the same through a chain."""

    container_id: str
    netns: str
    ifname: str
    args: tuple[tuple[str, str], ...]
    capability_args: dict[str, Any]


class CNI:
    """One network for all containers of a runtime; loopback is always done."""

    def __init__(
        self, conf_dir: Path, bin_dirs: Sequence[Path], cache_dir: Path, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._conf_dir = conf_dir
        self._path = tuple(map(str, bin_dirs))
        self._cache = ResultCache(cache_dir)
        self._timeout_s = timeout_s
        self._seen: object = None  # the directory's state when it was last read
        self._found = config.Discovery(network=None, problems=())

    # --- configuration

    async def load(self) -> NetworkConfigList | None:
        """Read the directory, and make what can be made before the first container (the bridge)."""
        network = self.network()
        if network is not None:
            await self._prepare(network)
        return network

    def network(self) -> NetworkConfigList | None:
        """The network to use now. Reads the directory again only when a file in it has changed."""
        state = self._state()
        if state != self._seen:
            self._found = config.discover(self._conf_dir)
            self._seen = state
            for problem in self._found.problems:
                log.warning("%s", problem)
        return self._found.network

    def _state(self) -> object:
        # A few stats cost less than keeping an inotify watch on a directory that may not exist yet.
        stats = [(path, path.stat()) for path in config.watched_files(self._conf_dir)]
        return [(path, info.st_ino, info.st_mtime_ns, info.st_size) for path, info in stats]

    async def _prepare(self, network: NetworkConfigList) -> None:
        for plugin in network.plugins:
            with contextlib.suppress(CNIError):  # what fails now may work for the first ADD, and else says so
                own = own_plugin(find_plugin(plugin.type, self._path))
                if own is not None:
                    call = _Call(container_id="", netns="", ifname="", args=(), capability_args={})
                    args = self._args(network, plugin, "STATUS", call, None)
                    await asyncio.to_thread(skel.guard, own, own.prepare, args)

    # --- attaching

    async def add(
        self,
        container_id: str,
        netns: str | Path,
        ifname: str = IFNAME,
        args: Mapping[str, str] | None = None,
        capability_args: Mapping[str, Any] | None = None,
    ) -> Result:
        """Attach the container; on failure everything is undone with DEL and the first error raised.

        `args` become CNI_ARGS; `capability_args` (portMappings, bandwidth, mac, ...) go to the plugins that
        ask for them.
        """
        skel.check_attachment(container_id, ifname)
        network = self.network()
        if network is None:
            raise self._no_network()
        call = _Call(
            container_id=container_id,
            netns=str(netns),
            ifname=ifname,
            args=tuple((args or {}).items()),
            capability_args=dict(capability_args or {}),
        )
        try:
            own = self._own_plugins(network)
            if own is not None:
                return await on_thread(self._add_here, network, call, own)
            await on_thread(self._bring_lo_up, call)
            result = await self._add_chain(network, call)
            await on_thread(self._cache.save, self._entry(network, call, result))
            return result
        except BaseException:
            # A cancelled ADD has made as much as a failed one.
            await to_the_end(self._undo(network, call))
            raise

    def _own_plugins(self, network: NetworkConfigList) -> list[Plugin] | None:
        """The chain's plugins when all are ours."""
        own = [own_plugin(find_plugin(plugin.type, self._path)) for plugin in network.plugins]
        known = [plugin for plugin in own if plugin is not None]
        return known if len(known) == len(own) else None

    def _add_here(self, network: NetworkConfigList, call: _Call, own: list[Plugin]) -> Result:
        """ADD of a chain of our own plugins, on one thread from lo to the cache: each change costs 0.3 ms."""
        self._bring_lo_up(call)
        result: Result | None = None
        for conf, plugin in zip(network.plugins, own, strict=True):
            previous = result.to_json(network.cni_version) if result is not None else None
            result = skel.run(plugin, self._args(network, conf, "ADD", call, previous))
        assert result is not None  # a list has at least one plugin
        self._cache.save(self._entry(network, call, result))
        return result

    def _bring_lo_up(self, call: _Call) -> None:
        args = Args(
            command="ADD",
            container_id=call.container_id,
            netns=call.netns,
            ifname="lo",
            args="",
            path=self._path,
            conf={"cniVersion": "1.0.0", "name": "cni-loopback", "type": "loopback"},
        )
        skel.run(loopback.PLUGIN, args)

    async def _add_chain(self, network: NetworkConfigList, call: _Call) -> Result:
        result: Result | None = None
        for plugin in network.plugins:
            previous = result.to_json(network.cni_version) if result is not None else None
            args = self._args(network, plugin, "ADD", call, previous)
            result = await invoke(plugin.type, args, timeout_s=self._timeout_s)
        assert result is not None  # a list has at least one plugin
        return result

    async def _undo(self, network: NetworkConfigList, call: _Call) -> None:
        try:
            await self._delete_chain(network, call, None)
            # A cancelled ADD may have got as far as the cache.
            self._cache.remove(network.name, call.container_id, call.ifname)
        except CNIError as err:
            log.warning("undoing the failed ADD of %s: %s", call.container_id, err)

    # --- detaching

    async def delete(
        self,
        container_id: str,
        netns: str | Path | None = None,
        ifname: str = IFNAME,
        args: Mapping[str, str] | None = None,
        capability_args: Mapping[str, Any] | None = None,
    ) -> None:
        """Detach the container. What is gone already is success, and so is a container never attached.

        The cached configuration, result and arguments of ADD are used; without them the present configuration
        and what is passed here.
        """
        skel.check_attachment(container_id, ifname)
        attachments = await asyncio.to_thread(self._recall, container_id, ifname)
        for entry in attachments:
            call = _Call(
                container_id=container_id,
                netns=str(netns or ""),
                ifname=ifname,
                args=entry.cni_args,
                capability_args=entry.capability_args,
            )
            await self._delete_chain(config.parse(entry.config), call, entry.result)
            self._cache.remove(entry.network, container_id, ifname)
        if attachments:
            return
        network = self.network()
        if network is not None:
            call = _Call(
                container_id=container_id,
                netns=str(netns or ""),
                ifname=ifname,
                args=tuple((args or {}).items()),
                capability_args=dict(capability_args or {}),
            )
            await self._delete_chain(network, call, None)

    def _recall(self, container_id: str, ifname: str) -> list[Attachment]:
        self._cache.remove_drafts(container_id, ifname)
        return self._cache.find(container_id, ifname)

    async def _delete_chain(
        self, network: NetworkConfigList, call: _Call, previous: dict[str, Any] | None
    ) -> None:
        """DEL in reverse order. A plugin that fails does not keep the others from cleaning up."""
        failure: CNIError | None = None
        if network.cni_version < "0.4.0":  # before that DEL got no result
            previous = None
        for plugin in reversed(network.plugins):
            args = self._args(network, plugin, "DEL", call, previous)
            try:
                await invoke(plugin.type, args, timeout_s=self._timeout_s)
            except CNIError as err:
                failure = failure or err
        if failure:
            raise failure

    async def gc(self, valid: Iterable[tuple[str, str]]) -> None:
        """Remove what belongs to no attachment of `valid`, pairs of container ID and interface name.

        Cached attachments of the network are deleted as ever; then, from version 1.1.0 on, its plugins are
        told what is still there (CNI spec, "GC: Clean up any stale resources"). The caller sees to it that
        nothing is attached or detached meanwhile. All of it is tried; the first `CNIError` is raised.
        """
        network = self.network()
        if network is None or network.disable_gc:
            return
        kept = list(dict.fromkeys(valid))
        failure: CNIError | None = None
        await asyncio.to_thread(self._cache.remove_all_drafts)
        for entry in await asyncio.to_thread(self._cache.all):
            if entry.network != network.name or (entry.container_id, entry.ifname) in kept:
                continue
            try:
                await self.delete(entry.container_id, entry.netns, entry.ifname)
            except CNIError as err:
                failure = failure or err
        call = _Call(container_id="", netns="", ifname="", args=(), capability_args={})
        for plugin in network.plugins if network.cni_version >= "1.1.0" else ():
            args = self._args(network, plugin, "GC", call, None, valid=kept)
            try:
                await invoke(plugin.type, args, timeout_s=self._timeout_s)
            except CNIError as err:
                failure = failure or err
        if failure:
            raise failure

    # --- looking

    async def check(self, container_id: str, netns: str | Path, ifname: str = IFNAME) -> None:
        """CHECK with the cached result; `CNIError` says what differs."""
        attachments = await asyncio.to_thread(self._cache.find, container_id, ifname)
        if not attachments:
            raise CNIError(INVALID_CONFIG, f"CHECK {container_id}: no cached result for {ifname}")
        for entry in attachments:
            network = config.parse(entry.config)
            if network.disable_check or network.cni_version < "0.4.0":
                continue
            call = _Call(
                container_id=container_id,
                netns=str(netns),
                ifname=ifname,
                args=entry.cni_args,
                capability_args=entry.capability_args,
            )
            for plugin in network.plugins:
                args = self._args(network, plugin, "CHECK", call, entry.result)
                await invoke(plugin.type, args, timeout_s=self._timeout_s)

    async def status(self) -> NetworkStatus:
        """Whether an ADD may be expected to work: configuration, plugins, and their STATUS from 1.1.0 on.

        Notices a changed directory, and prepares for its network as `load` does.
        """
        before = self._found.network
        network = self.network()
        if network is not None and network is not before:
            await self._prepare(network)
        if network is None:
            return NetworkStatus(
                ready=False, reason="NetworkPluginNotReady", message=str(self._no_network().message)
            )
        call = _Call(container_id="", netns="", ifname="", args=(), capability_args={})
        try:
            for plugin in network.plugins:
                find_plugin(plugin.type, self._path)
                if network.cni_version >= "1.1.0":
                    args = self._args(network, plugin, "STATUS", call, None)
                    await invoke(plugin.type, args, timeout_s=self._timeout_s)
        except CNIError as err:
            return NetworkStatus(
                ready=False,
                reason="NetworkPluginNotReady",
                message=f"Network plugin returns error: {err}",
            )
        return NetworkStatus(ready=True)

    def cached(self, container_id: str, ifname: str = IFNAME) -> Result | None:
        """The result of an earlier ADD, also one of a library that ran before this one."""
        for entry in self._cache.find(container_id, ifname):
            if entry.result is not None:
                return Result.from_json(entry.result)
        return None

    def attachments(self) -> list[Attachment]:
        """All that is cached, for cleaning up after a crash."""
        return self._cache.all()

    def _no_network(self) -> NoNetworkError:
        problems = "; ".join(map(str, self._found.problems))
        return NoNetworkError(
            INVALID_CONFIG,
            f"cni plugin not initialized: no valid network configuration in {self._conf_dir}"
            + (f": {problems}" if problems else ""),
            "" if problems else "put a .conflist or .conf file there",
        )

    def _entry(self, network: NetworkConfigList, call: _Call, result: Result) -> Attachment:
        return Attachment(
            network=network.name,
            container_id=call.container_id,
            ifname=call.ifname,
            netns=call.netns,
            config=network.raw,
            cni_args=call.args,
            capability_args=call.capability_args,
            result=result.to_json(network.cni_version),
        )

    def _args(
        self,
        network: NetworkConfigList,
        plugin: PluginConf,
        command: str,
        call: _Call,
        previous: dict[str, Any] | None,
        *,
        valid: Sequence[tuple[str, str]] | None = None,
    ) -> Args:
        text = ";".join(f"{key}={value}" for key, value in call.args)
        parse_args(text)
        return Args(
            command=command,
            container_id=call.container_id,
            netns=call.netns,
            ifname=call.ifname,
            args=text,
            path=self._path,
            conf=config.plugin_conf(
                network,
                plugin,
                capability_args=call.capability_args,
                prev_result=previous,
                valid_attachments=valid,
            ),
        )
