"""What a container may do, asked from inside and answered by the kernel: status, mountinfo, errno."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.runtime_local import IMAGE, Local
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.host import CAPABILITIES, capability_set
from podling.runtime.images.archive import import_rootfs
from podling.runtime.images.oci import RunConfig
from podling.runtime.oci import DEFAULT_CAPABILITIES, DEFAULT_MASKED_PATHS
from podling.runtime.security import APPARMOR, SELINUX

Change = Callable[[cri.ContainerConfig], None]
Kinds = cri.SecurityProfileType
DEFAULT = frozenset(DEFAULT_CAPABILITIES)


def having(**fields: object) -> Change:
    """Set fields of the security context."""

    def change(config: cri.ContainerConfig) -> None:
        for name, value in fields.items():
            setattr(config.linux.security_context, name, value)

    return change


async def status_of(local: Local, change: Change | None = None, sandbox_id: str = "") -> dict[str, str]:
    """/proc/self/status of a container's first process."""
    sandbox_id = sandbox_id or await local.sandbox()
    said = await local.output(sandbox_id, "cat", "/proc/self/status", change=change)
    return {key: value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())}


def ids(status: dict[str, str]) -> tuple[set[str], set[str], set[int]]:
    return set(status["Uid"].split()), set(status["Gid"].split()), set(map(int, status["Groups"].split()))


def capabilities(status: dict[str, str], kind: str) -> frozenset[str]:
    return capability_set(f"{kind}:\t{status[kind]}\n", kind)


async def refused(local: Local, change: Change, text: str) -> CRIError:
    """CreateContainer says no, and leaves nothing (`local` looks)."""
    with pytest.raises(CRIError, match=text) as caught:
        await local.create(await local.sandbox(), "true", change=change)
    return caught.value


# users and groups


@pytest.fixture
def image_of(local: Local, tmp_path: Path) -> Callable[[str], str]:
    """An image like the usual one, whose config names a user."""

    def make(user: str) -> str:
        store = local.runtime.core.images
        name = f"localhost/user:{user.replace(':', '_') or 'none'}"
        if store.resolve(name) is None:
            with tarfile.open(tmp_path / "rootfs.tar", "w") as tar:
                tar.add(store.rootfs_path(store.get(IMAGE)), arcname=".")
            import_rootfs(store, tmp_path / "rootfs.tar", name, config=RunConfig(user=user))
        return name

    return make


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups"),
    [
        ("web", 1000, 1001, {1001, 2000}),
        ("1000", 1000, 1001, {1001, 2000}),
        ("web:extra", 1000, 2000, {2000}),
        ("1000:77", 1000, 77, {77, 2000}),
        ("4242", 4242, 0, {0}),
        ("4242:extra", 4242, 2000, {2000}),
    ],
)
async def test_user_of_the_image(
    local: Local, image_of: Callable[[str], str], user: str, uid: int, gid: int, groups: set[int]
) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.image.image = image_of(user)

    container_id = await local.run(await local.sandbox(), "sleep", "1000", change=change)
    pid = local.runtime.core.container(container_id).record.process.pid
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    assert ids(status) == ({str(uid)}, {str(gid)}, groups)
    told = (await local.status(container_id)).user.linux
    assert (told.uid, told.gid, set(told.supplemental_groups)) == (uid, gid, groups)


@pytest.mark.parametrize("user", ["nobody", "web:nogroup", "nobody:0"])
async def test_user_that_the_image_does_not_know(
    local: Local, image_of: Callable[[str], str], user: str
) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.image.image = image_of(user)

    error = await refused(local, change, "unable to find (user nobody|group nogroup)")
    assert error.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("policy", "groups"),
    [
        (cri.SupplementalGroupsPolicy.Merge, {1001, 2000, 3000}),
        (cri.SupplementalGroupsPolicy.Strict, {1001, 3000}),
    ],
)
async def test_groups_of_the_image_are_added_or_not(
    local: Local, policy: cri.SupplementalGroupsPolicy, groups: set[int]
) -> None:
    change = having(run_as_user=1000, supplemental_groups=[3000], supplemental_groups_policy=policy)
    assert ids(await status_of(local, change)) == ({"1000"}, {"1001"}, groups)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"run_as_group": 5}, "user group 5 is specified without user"),
        ({"run_as_user": -1}, "user -1 is out of range"),
        ({"run_as_user": 1 << 32}, "user 4294967296 is out of range"),
        ({"run_as_user": 1, "run_as_group": -2}, "group -2 is out of range"),
        ({"supplemental_groups": [1 << 40]}, "supplemental group 1099511627776 is out of range"),
    ],
)
async def test_users_that_cannot_be(local: Local, fields: dict[str, object], text: str) -> None:
    assert (await refused(local, having(**fields), text)).code is Code.INVALID_ARGUMENT


# capabilities


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ([], [], DEFAULT),
        (["NET_ADMIN"], [], DEFAULT | {"CAP_NET_ADMIN"}),
        ([], ["CAP_NET_RAW", "MKNOD"], DEFAULT - {"CAP_NET_RAW", "CAP_MKNOD"}),
        ([], ["ALL"], frozenset()),
        (["CHOWN"], ["ALL"], frozenset({"CAP_CHOWN"})),
        (["ALL"], ["SYS_ADMIN"], frozenset(f"CAP_{name}" for name in CAPABILITIES) - {"CAP_SYS_ADMIN"}),
    ],
)
async def test_capabilities(local: Local, add: list[str], drop: list[str], expected: frozenset[str]) -> None:
    wanted = cri.Capability(add_capabilities=add, drop_capabilities=drop)
    status = await status_of(local, having(capabilities=wanted))
    can_give = local.runtime.core.host.capabilities
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert capabilities(status, kind) == expected & can_give, kind
    assert capabilities(status, "CapInh") == capabilities(status, "CapAmb") == frozenset()


async def test_a_user_has_none_unless_they_are_ambient(local: Local) -> None:
    status = await status_of(local, having(run_as_user=1000))
    assert capabilities(status, "CapEff") == frozenset()
    assert capabilities(status, "CapBnd") == DEFAULT & local.runtime.core.host.capabilities
    ambient = cri.Capability(add_ambient_capabilities=["NET_BIND_SERVICE"])
    status = await status_of(local, having(run_as_user=1000, capabilities=ambient))
    for kind in ("CapEff", "CapAmb", "CapInh"):
        assert capabilities(status, kind) == {"CAP_NET_BIND_SERVICE"}, kind


async def test_no_new_privileges(local: Local) -> None:
    assert (await status_of(local))["NoNewPrivs"] == "0"
    assert (await status_of(local, having(no_new_privs=True)))["NoNewPrivs"] == "1"


async def test_exec_has_the_containers_rights_and_no_more(local: Local) -> None:
    wanted = cri.Capability(add_capabilities=["NET_ADMIN"], drop_capabilities=["ALL"])
    change = having(run_as_user=1000, capabilities=wanted, no_new_privs=True)
    container_id = await local.run(await local.sandbox(), "sleep", "1000", change=change)
    said = (await local.exec(container_id, "cat", "/proc/self/status")).stdout.decode()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())}
    assert ids(status) == ({"1000"}, {"1001"}, {1001, 2000})
    assert capabilities(status, "CapBnd") == {"CAP_NET_ADMIN"}
    assert capabilities(status, "CapEff") == frozenset()
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


async def test_privileged_has_all_and_nothing_is_hidden(local: Local) -> None:
    sandbox_id, change = await local.sandbox(), having(privileged=True)
    status = await status_of(local, change, sandbox_id)
    assert capabilities(status, "CapEff") == local.runtime.core.host.capabilities
    assert status["Seccomp"] == "0"
    mounted = await mountinfo(local, change, sandbox_id)
    assert not set(DEFAULT_MASKED_PATHS) & set(mounted)
    assert "rw" in mounted["/sys"]
    assert "/proc/sys" not in mounted


# what can be seen


async def mountinfo(local: Local, change: Change | None = None, sandbox_id: str = "") -> dict[str, list[str]]:
    """Mount point -> options, the last one mounted there."""
    sandbox_id = sandbox_id or await local.sandbox()
    said = await local.output(sandbox_id, "cat", "/proc/self/mountinfo", change=change)
    return {line.split()[4]: line.split()[5].split(",") for line in said.splitlines()}


async def test_paths_of_proc_are_masked_and_read_only(local: Local) -> None:
    mounted = await mountinfo(local)
    there = {path for path in DEFAULT_MASKED_PATHS if Path(path).exists()}
    assert there <= set(mounted)
    for path in ("/proc/sys", "/proc/irq", "/sys"):
        assert "ro" in mounted[path], path
    cgroups = [path for path in mounted if path.startswith("/sys/fs/cgroup/")] or ["/sys/fs/cgroup"]
    assert all("ro" in mounted[path] for path in cgroups)
    script = "exec 2>&1; for f; do if test -d $f; then ls $f; else cat $f; fi; done; "
    script += "echo x > /proc/sys/kernel/hostname"
    said = await local.output(await local.sandbox(), "sh", "-c", script, "sh", *sorted(there))
    # Nothing comes out of the masked ones: files are empty, and so are directories.
    assert len(said.splitlines()) == 1
    assert said.endswith("can't create /proc/sys/kernel/hostname: Read-only file system")


async def test_other_paths_may_be_masked_and_read_only(local: Local) -> None:
    change = having(masked_paths=["/etc/group", "/work"], readonly_paths=["/tmp"])
    script = "exec 2>&1; cat /etc/group; ls /work; echo x > /tmp/x; cat /proc/sys/kernel/hostname"
    said = await local.output(await local.sandbox(), "sh", "-c", script, change=change)
    assert said.splitlines() == ["sh: can't create /tmp/x: Read-only file system", "pod"]


async def test_read_only_root(local: Local) -> None:
    change = having(readonly_rootfs=True)
    assert "ro" in (await mountinfo(local, change))["/"]
    said = await local.output(
        await local.sandbox(), "sh", "-c", "echo x > /x; echo y > /dev/shm/y", change=change
    )
    assert said == "sh: can't create /x: Read-only file system"


async def test_devices_that_every_container_has(local: Local) -> None:
    said = set((await local.output(await local.sandbox(), "ls", "/dev")).split())
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd"} <= said
    assert not {"kmsg", "mem", "loop-control", "vda", "sda"} & said


async def test_given_devices_with_their_rights(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.devices = [
            cri.Device(container_path="/dev/both", host_path="/dev/full", permissions="rw"),
            cri.Device(container_path="/dev/out", host_path="/dev/kmsg", permissions="w"),
        ]

    script = "head -c 1 /dev/both >/dev/null && echo read; echo x > /dev/both; head -c 1 /dev/out"
    said = await local.output(await local.sandbox(), "sh", "-c", script, change=change)
    assert said.startswith("read")
    assert "No space left on device" in said
    if local.runtime.core.host.device_filter:
        assert "Operation not permitted" in said


@pytest.mark.parametrize(
    ("device", "text"),
    [
        (cri.Device(container_path="/dev/x", host_path="/etc/hostname", permissions="r"), "is not a device"),
        (cri.Device(container_path="/dev/x", host_path="/dev/null", permissions="rx"), "invalid host path"),
        (cri.Device(container_path="/dev/x", permissions="r"), "invalid host path"),
        (cri.Device(container_path="/dev/x", host_path="/dev/nonexistent"), "/dev/nonexistent"),
    ],
)
async def test_what_is_no_device(local: Local, device: cri.Device, text: str) -> None:
    await refused(local, lambda config: setattr(config, "devices", [device]), text)


# seccomp, AppArmor, SELinux


async def test_default_profile_forbids_what_few_need(local: Local) -> None:
    """With CAP_SYS_ADMIN mounting is allowed again, as in Docker's profile."""
    assert (await status_of(local))["Seccomp"] == "2"
    sandbox_id = await local.sandbox()
    script = "unshare -n true; echo $?; mount -t tmpfs none /tmp; echo $?"
    denied = await local.output(sandbox_id, "sh", "-c", script.replace("unshare", "busybox unshare"))
    assert "0" not in denied.splitlines()
    change = having(capabilities=cri.Capability(add_capabilities=["SYS_ADMIN"]))
    allowed = await local.output(
        sandbox_id, "sh", "-c", script.replace("unshare", "busybox unshare"), change=change
    )
    assert allowed.splitlines()[0] == "0"


async def test_unconfined(local: Local) -> None:
    change = having(seccomp=cri.SecurityProfile(profile_type=Kinds.Unconfined))
    assert (await status_of(local, change))["Seccomp"] == "0"


async def test_a_profile_of_ones_own(local: Local, tmp_path: Path) -> None:
    calls = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]
    document = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls}
    (tmp_path / "no-mkdir.json").write_text(json.dumps(document))
    profile = cri.SecurityProfile(profile_type=Kinds.Localhost, localhost_ref=str(tmp_path / "no-mkdir.json"))
    sandbox_id, change = await local.sandbox(), having(seccomp=profile)
    assert (await status_of(local, change, sandbox_id))["Seccomp"] == "2"
    said = await local.output(sandbox_id, "busybox", "mkdir", "/tmp/x", change=change)
    assert said == "mkdir: can't create directory '/tmp/x': Operation not supported"


@pytest.mark.parametrize(
    ("name", "text"), [("relative.json", "is not an absolute path"), ("/nonexistent.json", "No such file")]
)
async def test_profiles_that_are_not_there(local: Local, name: str, text: str) -> None:
    profile = cri.SecurityProfile(profile_type=Kinds.Localhost, localhost_ref=name)
    error = await refused(local, having(seccomp=profile), text)
    assert error.code is Code.INVALID_ARGUMENT
    assert name in error.message


async def test_a_profile_that_is_none(local: Local, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    profile = cri.SecurityProfile(profile_type=Kinds.Localhost, localhost_ref=str(tmp_path / "bad.json"))
    assert (await refused(local, having(seccomp=profile), "bad.json")).code is Code.INVALID_ARGUMENT


async def test_the_field_that_seccomp_has_replaced_is_honoured(local: Local) -> None:
    """What older clients say; where both are given the newer one counts."""
    default = cri.SecurityProfile(profile_type=Kinds.RuntimeDefault)
    assert (await status_of(local, having(seccomp_profile_path="unconfined")))["Seccomp"] == "0"
    both = having(seccomp_profile_path="unconfined", seccomp=default)
    assert (await status_of(local, both))["Seccomp"] == "2"
    await refused(local, having(seccomp_profile_path="localhost//nonexistent.json"), "No such file")
    error = await refused(local, having(seccomp_profile_path="bogus"), "invalid profile 'bogus'")
    assert error.code is Code.INVALID_ARGUMENT


@pytest.mark.skipif(APPARMOR.exists(), reason="this kernel has AppArmor")
async def test_apparmor_profiles_need_apparmor(local: Local) -> None:
    profile = cri.SecurityProfile(profile_type=Kinds.Localhost, localhost_ref="localhost/mine")
    error = await refused(
        local, having(apparmor=profile), "apparmor profile 'mine': apparmor is not supported"
    )
    assert error.code is Code.FAILED_PRECONDITION
    for kind in (Kinds.RuntimeDefault, Kinds.Unconfined):
        change = having(apparmor=cri.SecurityProfile(profile_type=kind))
        assert (await status_of(local, change))["Name"] == "cat"


@pytest.mark.skipif(SELINUX.exists(), reason="this kernel has SELinux")
async def test_labels_mean_nothing_without_selinux(local: Local) -> None:
    change = having(selinux_options=cri.SELinuxOption(type="container_t", level="s0:c1,c2"))
    assert (await status_of(local, change))["Name"] == "cat"


# sysctls


async def test_sysctls_of_the_nodes_are_refused_and_nothing_is_left(local: Local) -> None:
    config = local.sandbox_config()
    config.linux.sysctls = {"vm.swappiness": "10"}
    before = Path("/proc/sys/vm/swappiness").read_text()
    with pytest.raises(CRIError, match=r"vm\.swappiness"):
        await local.sandbox(config)
    assert Path("/proc/sys/vm/swappiness").read_text() == before
    assert local.leftovers() == []


async def test_sysctls_of_a_namespace_that_is_the_nodes_are_refused(local: Local) -> None:
    config = local.sandbox_config(network=cri.NamespaceMode.NODE)
    config.linux.sysctls = {"net.core.somaxconn": "99"}
    with pytest.raises(CRIError, match=r"net\.core\.somaxconn"):
        await local.sandbox(config)
    assert local.leftovers() == []
