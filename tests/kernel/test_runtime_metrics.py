"""Stats and metrics: numbers that the container makes happen, and those that the kernel says."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kernel.runtime_local import Local
from podling.linux.cgroups import Layout
from podling.runtime.cri import messages as cri
from podling.runtime.metrics import LABELS, descriptors

MIB = 1 << 20


def limited(config: cri.ContainerConfig) -> None:
    config.linux.resources = cri.LinuxContainerResources(
        memory_limit_in_bytes=64 * MIB, cpu_shares=512, cpu_quota=50_000, cpu_period=100_000
    )


async def measured(local: Local) -> tuple[dict[str, list[cri.Metric]], dict[str, list[cri.Metric]]]:
    """By name: the sandbox's, and those of its one container."""
    (pod,) = (await local.runtime.list_pod_sandbox_metrics(cri.ListPodSandboxMetricsRequest())).pod_metrics
    (container,) = pod.container_metrics
    return _by_name(pod.metrics), _by_name(container.metrics)


def _by_name(metrics: list[cri.Metric]) -> dict[str, list[cri.Metric]]:
    found: dict[str, list[cri.Metric]] = {}
    for metric in metrics:
        found.setdefault(metric.name, []).append(metric)
    return found


async def test_metrics_are_what_the_container_does(local: Local) -> None:
    sandbox_id = await local.sandbox(local.sandbox_config("web-0"))
    script = "dd if=/dev/zero of=/work/file bs=1M count=3 2>/dev/null; exec 5</bin/sh; exec sleep 1000"
    container_id = await local.run(sandbox_id, "sh", "-c", script, change=limited)
    pid = local.runtime.core.container(container_id).record.process.pid
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":  # noqa: ASYNC110 - another program's doing
            await asyncio.sleep(0.01)
    pod, container = await measured(local)

    def value(name: str) -> int:
        (metric,) = container[f"container_{name}"]
        return metric.value

    (usage,) = container["container_memory_usage_bytes"]
    record = local.runtime.core.container(container_id).record
    assert usage.label_values == [container_id, record.image_name, "default", "web-0", "c0"]
    assert 0 < value("memory_working_set_bytes") <= value("memory_usage_bytes")
    assert value("memory_usage_bytes") <= value("memory_max_usage_bytes") <= 64 * MIB
    assert value("spec_memory_limit_bytes") == 64 * MIB
    assert (value("spec_cpu_shares"), value("spec_cpu_quota"), value("spec_cpu_period")) == (
        512,
        50_000,
        100_000,
    )
    assert (value("processes"), value("threads")) == (1, 1)
    assert value("file_descriptors") >= 4  # the standard three, and the one that the shell left open
    assert value("start_time_seconds") == record.started_at // 1_000_000_000
    assert value("oom_events_total") == 0
    assert value("fs_inodes_free") < value("fs_inodes_total")
    (limit,) = container["container_ulimits_soft"]
    assert limit.label_values[-1] == "max_open_files"
    assert f"Max open files            {limit.value} " in Path(f"/proc/{pid}/limits").read_text()
    received = {m.label_values[-1]: m.value for m in pod["container_network_receive_packets_total"]}
    assert set(received) == {"eth0"}
    assert pod["container_network_receive_packets_total"][0].label_values[len(LABELS) - 1] == "POD"


async def test_every_metric_is_described(local: Local) -> None:
    await local.run(await local.sandbox(), "sleep", "1000", change=limited)
    pod, container = await measured(local)
    keys = {d.name: d.label_keys for d in descriptors()}
    assert all(d.help for d in descriptors())
    for name, metrics in (*pod.items(), *container.items()):
        for metric in metrics:
            assert len(metric.label_values) == len(keys[name]), name
    unsaid = set(keys) - set(pod) - set(container)
    # A disk is there when it was touched, swap has a limit when it was given one, and v1 knows no pressure.
    allowed = ("container_fs_reads", "container_fs_writes", "container_spec_memory_swap")
    if local.runtime.core.cgroups.layout is not Layout.V2:
        allowed += ("container_pressure_",)
    assert {name for name in unsaid if not name.startswith(allowed)} == set()


async def test_disk_use_of_images_and_layers(local: Local) -> None:
    async def look() -> tuple[cri.FilesystemUsage, cri.FilesystemUsage]:
        info = await local.runtime.image_fs_info(cri.ImageFsInfoRequest())
        return info.image_filesystems[0], info.container_filesystems[0]

    images, before = await look()
    assert images.fs_id.mountpoint == str(local.config.image_dir)
    assert images.used_bytes > 0
    assert images.inodes_used > 20  # busybox's applets alone
    container_id = await local.run(await local.sandbox(), "sleep", "1000")
    await local.exec(container_id, "dd", "if=/dev/zero", "of=/work/file", "bs=1M", "count=2")
    same, after = await look()
    assert (same.used_bytes, same.inodes_used) == (images.used_bytes, images.inodes_used)
    assert after.fs_id.mountpoint == str(local.config.root_dir / "containers")
    assert after.used_bytes - before.used_bytes >= 2 * MIB
    assert after.inodes_used > before.inodes_used
    stats = await local.runtime.container_stats(cri.ContainerStatsRequest(container_id=container_id))
    assert stats.stats.writable_layer.used_bytes == after.used_bytes


async def test_network_and_processor_use_grow(local: Local) -> None:
    sandbox_id = await local.sandbox()
    container_id = await local.run(sandbox_id, "sh", "-c", "while :; do :; done")
    request = cri.PodSandboxStatsRequest(pod_sandbox_id=sandbox_id)
    first = (await local.runtime.pod_sandbox_stats(request)).stats.linux
    assert first.cpu.usage_nano_cores is None  # there was nothing to compare with
    ip = (await local.sandbox_status(sandbox_id)).network.ip
    _, writer = await asyncio.open_connection(ip, await _listening(local, container_id))
    writer.close()
    async with asyncio.timeout(20):
        while True:
            second = (await local.runtime.pod_sandbox_stats(request)).stats.linux
            if second.cpu.usage_core_nano_seconds > first.cpu.usage_core_nano_seconds:
                break
            await asyncio.sleep(0.05)
    assert second.cpu.usage_nano_cores > 0
    before, after = (s.network.default_interface for s in (first, second))
    assert after.name == "eth0"
    assert after.rx_bytes > before.rx_bytes
    assert after.tx_bytes > before.tx_bytes
    assert (after.rx_errors, after.tx_errors) == (0, 0)


async def _listening(local: Local, container_id: str) -> int:
    await local.exec(container_id, "sh", "-c", "nc -l -p 8080 </dev/null >/dev/null 2>&1 &")
    async with asyncio.timeout(10):
        while b":1F90" not in (await local.exec(container_id, "cat", "/proc/net/tcp6")).stdout:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return 8080
