"""Authorization towards one registry: what a 401 asks for, and getting it.

Distribution, "Token Authentication Specification" and "Token OAuth2": the registry names a realm to fetch a
bearer token from, with user and password (GET) or with an identity token (POST); or it takes user and
password itself (Basic, RFC 7617).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import msgspec

from podling.runtime.images.registry.credentials import RegistryAuth
from podling.runtime.images.registry.errors import DeniedFault, RegistryFault

_SCHEME = re.compile(r"\s*([A-Za-z]+)(?:\s+|$)")
_PARAMETER = re.compile(r'\s*([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')
_MAX_TOKEN_BYTES = 1 << 20
_CLIENT_ID = "podling"


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str
    """Lower case: `bearer` or `basic`."""
    parameters: Mapping[str, str]


def parse_challenge(header: str) -> Challenge | None:
    """One `WWW-Authenticate` (RFC 9110, section 11.6.1); None when it is none."""
    match = _SCHEME.match(header)
    if match is None:
        return None
    parameters: dict[str, str] = {}
    rest = header[match.end() :]
    while found := _PARAMETER.match(rest):
        quoted, plain = found[2], found[3]
        parameters[found[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
        rest = rest[found.end() :]
    return Challenge(match[1].lower(), parameters)


class _TokenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    token: str = ""
    access_token: str = ""


class Authorizer:
    """Keeps the `Authorization` header of one repository on one registry."""

    def __init__(
        self, http: aiohttp.ClientSession, *, repository: str, auth: RegistryAuth | None, proxy: str | None
    ) -> None:
        self._http = http
        self._repository = repository
        self._auth = auth or RegistryAuth()
        self._proxy = proxy
        self.header: str | None = f"Bearer {self._auth.token}" if self._auth.token else None

    async def answer(self, challenges: list[str], *, encrypted: bool) -> None:
        """Get what the registry asks for. `encrypted`: it was asked over TLS. Raises `RegistryFault`."""
        parsed = [one for header in challenges if (one := parse_challenge(header))]
        for challenge in parsed:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                self.header = f"Bearer {await self._fetch_token(challenge.parameters, encrypted=encrypted)}"
                return
        if any(challenge.scheme == "basic" for challenge in parsed):
            if not self._auth.username:
                raise DeniedFault("authorization failed: no basic auth credentials")
            self.header = self._basic()
            return
        raise DeniedFault("authorization failed: the registry does not say how to authorize")

    def _basic(self) -> str:
        pair = f"{self._auth.username}:{self._auth.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    async def _fetch_token(self, parameters: Mapping[str, str], *, encrypted: bool) -> str:
        realm = parameters["realm"]
        scheme = urlsplit(realm).scheme
        if scheme not in ("http", "https"):
            raise DeniedFault(
                f"authorization failed: the registry names the realm {realm!r}, which is no URL"
            )
        if scheme == "http" and encrypted and self._auth:
            raise DeniedFault(f"authorization failed: will not send credentials to {realm}: not encrypted")
        fields = {
            "service": parameters.get("service", ""),
            "scope": parameters.get("scope") or f"repository:{self._repository}:pull",
        }
        fields = {key: value for key, value in fields.items() if value}
        try:
            data = await self._ask_realm(realm, fields)
        except (aiohttp.ClientError, TimeoutError) as err:
            raise RegistryFault(
                f"failed to authorize: failed to fetch token: {realm}: {err or 'no answer'}", passing=True
            ) from err
        try:
            answer = msgspec.json.decode(data, type=_TokenAnswer)
        except (msgspec.DecodeError, msgspec.ValidationError):
            raise RegistryFault(f"failed to authorize: {realm} gave no valid token") from None
        token = answer.token or answer.access_token
        if not token:
            raise DeniedFault(f"failed to authorize: {realm} gave no token")
        return token

    async def _ask_realm(self, realm: str, fields: dict[str, str]) -> bytes:
        if self._auth.identity_token:
            form = fields | {
                "grant_type": "refresh_token",
                "refresh_token": self._auth.identity_token,
                "client_id": _CLIENT_ID,
            }
            request = self._http.post(realm, data=form, proxy=self._proxy)
        else:
            headers = {"Authorization": self._basic()} if self._auth.username else {}
            request = self._http.get(realm, params=fields, headers=headers, proxy=self._proxy)
        async with request as response:
            if response.status in (401, 403):
                raise DeniedFault(
                    f"failed to authorize: failed to fetch token: {realm}: "
                    f"{response.status} {response.reason}"
                )
            if response.status >= 400:
                raise RegistryFault(
                    f"failed to authorize: failed to fetch token: {realm}: "
                    f"{response.status} {response.reason}",
                    passing=response.status >= 500 or response.status == 429,
                )
            data = await response.content.read(_MAX_TOKEN_BYTES)
            while not response.content.at_eof() and len(data) < _MAX_TOKEN_BYTES:
                data += await response.content.read(_MAX_TOKEN_BYTES - len(data))
            return data
