"""sample: the pattern of a chained plugin, to be read and copied; it changes nothing.

It does what every chained plugin does first: read its options and refuse what is missing, take prevResult,
and hand it on. A plugin of your own adds its work between the last two, takes it back in `_delete` (which
must succeed when there is nothing to take back) and looks for it in `_check`.

Options are the reference's: `anotherAwesomeArg` (needed), `myAwesomeFlag`; and `cniOutput` of the reference's
debug plugin, a file to which every call is appended: what the runtime passes, for those who want to see it.
"""

from __future__ import annotations

from podling.cni import jsontext
from podling.cni.plugins import skel
from podling.cni.plugins.meta.chained import Keys, chained_result, container_ips
from podling.cni.types import CHECK_FAILED, Args, CNIError, ConfigError, Result
from podling.linux.netlink import Netlink


def _parse(args: Args) -> None:
    options = Keys("sample", args.conf)
    options.get("myAwesomeFlag", bool, False)
    output = options.get("cniOutput", str, "")
    awesome = options.get("anotherAwesomeArg", str, "")
    options.done()
    if output:
        _log(args, output)
    if not awesome:
        raise ConfigError("anotherAwesomeArg must be specified")


def _log(args: Args, path: str) -> None:
    with open(path, "a") as file:
        file.write(
            f"CmdArgs\nCommand: {args.command}\nContainerID: {args.container_id}\nNetns: {args.netns}\n"
            f"IfName: {args.ifname}\nArgs: {args.args}\nPath: {':'.join(args.path)}\n"
            f"StdinData: {jsontext.dumps(dict(args.conf))}\n----------------------\n"
        )


def _add(args: Args) -> Result:
    _parse(args)
    result = chained_result(args)
    if not result.ips:
        raise ConfigError("got no container IPs")
    # A plugin's own work goes here. It may return a changed copy: `replace(result, ...)`.
    return result


def _delete(args: Args) -> None:
    _parse(args)


def _check(args: Args) -> None:
    """Are the addresses of prevResult still there? Never change anything here."""
    _parse(args)
    wanted = {ip.address for ip in container_ips(chained_result(args), args.ifname)}
    with Netlink(args.netns) as nl:
        missing = wanted - {address.interface for address in nl.addr_list(args.ifname)}
    if missing:
        raise CNIError(CHECK_FAILED, f"addresses gone from {args.ifname}: {', '.join(map(str, missing))}")


PLUGIN = skel.Plugin(name="sample", add=_add, delete=_delete, check=_check)
