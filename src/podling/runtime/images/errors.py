"""What can go wrong with images.

    ImageError(message, remedy)
     ├─ InvalidReferenceError     the name is not an image reference (kubelet: InvalidImageName)
     ├─ InvalidImageError         an archive, manifest or layer is malformed, hostile or too large
     ├─ ImageNotFoundError        no such image in the store
     ├─ AmbiguousReferenceError   an id prefix fits several images
     ├─ ImageInUseError           a container holds the image, or several names point to it
     ├─ PullError                 the registry could not be asked, or refused
     │   └─ PullNotFoundError     the registry has no such image, or hides it
     └─ BuildError                packages or files for a build could not be had

`code` is the gRPC status a CRI server answers with.
"""

from __future__ import annotations

from typing import ClassVar

from podling.runtime.cri.errors import Code


class ImageError(Exception):
    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class InvalidReferenceError(ImageError):
    code = Code.INVALID_ARGUMENT


class InvalidImageError(ImageError):
    code = Code.INVALID_ARGUMENT


class ImageNotFoundError(ImageError):
    code = Code.NOT_FOUND


class AmbiguousReferenceError(ImageError):
    code = Code.INVALID_ARGUMENT


class ImageInUseError(ImageError):
    code = Code.FAILED_PRECONDITION


class PullError(ImageError):
    code = Code.UNKNOWN


class PullNotFoundError(PullError):
    code = Code.NOT_FOUND


class BuildError(ImageError):
    code = Code.FAILED_PRECONDITION
