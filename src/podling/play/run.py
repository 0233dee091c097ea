"""Run the pods of a manifest by hand: pull, make the pod, prepare its volumes, make its containers, start.

What fails leaves nothing of that pod behind, and the pods before it run on; only an init container that
failed for good stays to be looked at. A crash leaves a pod that `podling pod rm` or `--down` removes.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from contextlib import suppress

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.kubelet.container_config import ContainerContext, ImageUser
from podling.kubelet.dns import ResolvConf, parse_resolv_conf
from podling.kubelet.environment import ConfigError, make_environment
from podling.kubelet.field_paths import PodFacts
from podling.kubelet.machine_info import capacity, read_machine_info
from podling.kubelet.volumes.manager import (
    MountFailure,
    has_sub_paths,
    prepare_volumes,
    resolve_sub_paths,
)
from podling.kubelet.volumes.payload import VolumeError
from podling.play.manifest import Manifest
from podling.play.translate import container_wanted, pod_wanted
from podling.runtime.byhand import pod as pods
from podling.runtime.byhand.create import create as create_container
from podling.runtime.byhand.errors import HandError
from podling.runtime.byhand.hand import Hand
from podling.runtime.byhand.pod import InitError, NoSuchPodError, Pod
from podling.runtime.byhand.settings import DEFAULT_NETWORK
from podling.runtime.images.errors import ImageError
from podling.runtime.images.record import ImageRecord

Tell = Callable[[str], None]

NODE_IP = "127.0.0.1"
"""`status.hostIP`: there is no node address that a cluster would know."""


async def play(
    hand: Hand, manifest: Manifest, tell: Tell, *, network: str = DEFAULT_NETWORK, replace: bool = False
) -> list[Pod]:
    """The pods made. Raises `HandError`, which names the pod; `ImageError`."""
    if replace:
        await down(hand, manifest)
    images = await _pull(hand, manifest, tell)
    return [await _play_pod(hand, pod, manifest, images, tell, network) for pod in manifest.pods]


async def down(hand: Hand, manifest: Manifest) -> list[Pod]:
    """Remove the manifest's pods, however many replicas there were; returns those there were."""
    wanted = {pod.metadata.name or "" for pod in manifest.pods}
    replicas = [re.compile(rf"{re.escape(name)}-pod(-\d+)?") for name in manifest.deployments]
    removed = []
    for pod in pods.list_pods(hand):
        if pod.name in wanted or any(pattern.fullmatch(pod.name) for pattern in replicas):
            with suppress(NoSuchPodError):  # somebody else was faster
                removed.append(await pods.remove(hand, pod.id, force=True))
    return removed


# images


async def _pull(hand: Hand, manifest: Manifest, tell: Tell) -> dict[str, ImageRecord]:
    """Before anything is made."""
    found: dict[str, ImageRecord] = {}
    for pod in manifest.pods:
        spec = names.pod_spec(pod)
        for container in [*spec.init_containers, *spec.containers]:
            name = container.image or ""
            image = hand.core.images.resolve(name)
            if container.image_pull_policy == "Never" and image is None:
                raise HandError(f'Container image "{name}" is not present with pull policy of Never')
            if image is None or container.image_pull_policy == "Always":
                tell(f"Pulling image {name!r}")
                image = await hand.core.images.pull(name, use_auth_files=True)
            found[name] = image
    return found


# one pod


async def _play_pod(
    hand: Hand,
    pod: core_v1.Pod,
    manifest: Manifest,
    images: dict[str, ImageRecord],
    tell: Tell,
    network: str,
) -> Pod:
    config = _config(hand)
    spec = names.pod_spec(pod)
    spec.node_name = config.node_name
    resolver = ResolvConf()
    if config.resolv_conf.exists():
        resolver = parse_resolv_conf(config.resolv_conf.read_text())
    made = await pods.create(hand, pod_wanted(pod, config, resolver=resolver, network=network))
    pod.metadata.uid = made.id
    try:
        await _make_containers(hand, config, made, pod, manifest, images, tell)
        return await pods.start(hand, made.id, tell=tell)
    except InitError:
        raise  # its log tells why
    except (HandError, ConfigError, VolumeError, MountFailure, ImageError) as err:
        await pods.remove(hand, made.id, force=True)
        raise HandError(f"pod {made.name}: {err}") from err
    except asyncio.CancelledError:
        await asyncio.shield(pods.remove(hand, made.id, force=True))
        raise


async def _make_containers(
    hand: Hand,
    config: KubeletConfig,
    made: Pod,
    pod: core_v1.Pod,
    manifest: Manifest,
    images: dict[str, ImageRecord],
    tell: Tell,
) -> None:
    """Those before the first regular one are started at once: a subPath may be what they make."""
    spec, sources = names.pod_spec(pod), manifest.sources
    machine = read_machine_info(hand.paths.root)
    ips = made.infra.settings.ips if made.infra.settings else []
    facts = PodFacts(host_ip=NODE_IP, pod_ips=ips, allocatable=capacity(machine, max_pods=config.max_pods))
    volumes = await prepare_volumes(config, pod, sources=sources, facts=facts)
    for container in [*spec.init_containers, *spec.containers]:
        sub_paths = {}
        if has_sub_paths(container):
            environment = make_environment(pod, container, sources=sources, facts=facts)
            sub_paths = await asyncio.to_thread(
                resolve_sub_paths, config, pod, container, volumes=volumes, environment=environment
            )
        image = images[container.image or ""]
        context = ContainerContext(
            attempt=0,
            image_id=image.id,
            image_user=_image_user(image),
            sources=sources,
            facts=facts,
            volumes=volumes,
            sub_paths=sub_paths,
            node_memory_bytes=machine.memory_bytes,
            seccomp_default=True,
        )
        held = await create_container(hand, pods.member(made, container_wanted(pod, container, context)))
        if any(container is one for one in spec.init_containers):
            await pods.start_one(hand, hand.find(held.id), tell=tell)


def _config(hand: Hand) -> KubeletConfig:
    """The kubelet's, so that its functions put a pod's files where `byhand.pod` removes them."""
    config = KubeletConfig(node_name=os.uname().nodename, node_ip=NODE_IP, root_dir=hand.paths.root)
    assert config.pods_dir == pods.volumes_dir(hand, "x").parent
    return config


def _image_user(image: ImageRecord) -> ImageUser:
    who = image.user.partition(":")[0]
    return ImageUser(uid=int(who)) if who.isdecimal() else ImageUser(username=who)
