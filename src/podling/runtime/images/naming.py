"""What names an image: the entries of index.json, computed as plain values.

An image has an entry for each of its names, or one without a name (dangling: pulled by digest, or its name
went to another image). Each entry carries the image's id and what registries called it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from podling.runtime.images.oci import ANNOTATION_REF_NAME, Descriptor

ANNOTATION_IMAGE_ID = "io.podling.image.id"
ANNOTATION_REPO_DIGESTS = "io.podling.image.digests"


def image_id_of(entry: Descriptor) -> str:
    return (entry.annotations or {}).get(ANNOTATION_IMAGE_ID, "")


def name_of(entry: Descriptor) -> str:
    return (entry.annotations or {}).get(ANNOTATION_REF_NAME, "")


def digests_of(entry: Descriptor) -> list[str]:
    return (entry.annotations or {}).get(ANNOTATION_REPO_DIGESTS, "").split()


def make_entry(manifest: Descriptor, image_id: str, name: str, repo_digests: Iterable[str]) -> Descriptor:
    notes = {ANNOTATION_IMAGE_ID: image_id}
    if joined := " ".join(dict.fromkeys(repo_digests)):
        notes[ANNOTATION_REPO_DIGESTS] = joined
    if name:
        notes[ANNOTATION_REF_NAME] = name
    return Descriptor(
        media_type=manifest.media_type, digest=manifest.digest, size=manifest.size, annotations=notes
    )


def with_names(
    entries: Sequence[Descriptor],
    manifest: Descriptor,
    image_id: str,
    names: Sequence[str],
    repo_digests: Iterable[str],
) -> list[Descriptor]:
    """The entries after the image got `names`, taken from whatever had them. No digest is forgotten."""
    kept: list[Descriptor] = []
    nameless: dict[str, Descriptor] = {}
    digests = list(repo_digests)
    for old in entries:
        if name_of(old) not in names and (name_of(old) or image_id_of(old) != image_id):
            kept.append(old)
        elif image_id_of(old) == image_id:
            digests += digests_of(old)
        else:
            nameless[image_id_of(old) or old.digest] = _without_name(old)
    still_there = {image_id_of(old) for old in kept}
    kept += [old for key, old in nameless.items() if key not in still_there]
    if names:
        return kept + [make_entry(manifest, image_id, name, digests) for name in names]
    first = next((number for number, old in enumerate(kept) if image_id_of(old) == image_id), None)
    if first is None:
        return [*kept, make_entry(manifest, image_id, "", digests)]
    kept[first] = make_entry(
        kept[first], image_id, name_of(kept[first]), [*digests_of(kept[first]), *digests]
    )
    return kept


def _without_name(entry: Descriptor) -> Descriptor:
    notes = {key: value for key, value in (entry.annotations or {}).items() if key != ANNOTATION_REF_NAME}
    return msgspec.structs.replace(entry, annotations=notes)
