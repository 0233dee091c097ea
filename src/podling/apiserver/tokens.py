"""JSON Web Tokens of service accounts: what is signed, and what a signature proves.

Claims are upstream's (`pkg/serviceaccount/claims.go`), so that a client that looks into its token finds
what it expects. Whether what a token is bound to still exists is asked in `serviceaccounts.py`.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

ISSUER = "https://kubernetes.default.svc.cluster.local"
"""Also the only audience of tokens meant for this API server."""
KEPT = 4096
"""Signatures already verified that are remembered: a pod shows the same token with every request."""

Claims = dict[str, Any]


class InvalidTokenError(Exception):
    """Not signed by us, for somebody else, or out of date; the text says which."""


class Tokens:
    """Signs and verifies with one key pair, EC or RSA, as PEM. Thread-safe; CPU only.

    The key is read on first use: its libraries take tens of milliseconds to import, and the first seconds
    of a cluster are better spent otherwise.
    """

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._lock = threading.Lock()
        self._key: PrivateKey | None = None
        self._verified: OrderedDict[str, Claims] = OrderedDict()

    def load(self) -> None:
        """Do the slow part now. Raises OSError and ValueError for a key that cannot be used."""
        self._private_key()

    def issue(self, claims: Claims) -> str:
        import jwt

        key = self._private_key()
        return jwt.encode({"iss": ISSUER, **claims}, key, _algorithm(key), headers={"kid": _key_id(key)})

    def verify(self, token: str, *, now: float) -> Claims:
        """The claims of a token we signed and whose time has come and not passed. The audience is the
        caller's to check. Raises InvalidTokenError."""
        claims = self._verified.get(token)
        if claims is None:
            claims = self._check_signature(token)
            with self._lock:
                self._verified[token] = claims
                if len(self._verified) > KEPT:
                    self._verified.popitem(last=False)
        if now >= claims["exp"]:
            raise InvalidTokenError("service account token has expired")
        if now < claims.get("nbf", 0):
            raise InvalidTokenError("service account token is not valid yet")
        return claims

    def _check_signature(self, token: str) -> Claims:
        import jwt

        key = self._private_key()
        checks = {"verify_exp": False, "verify_nbf": False, "verify_aud": False, "verify_iat": False}
        options: Any = {**checks, "require": ["exp", "iss", "sub", "aud"]}
        try:
            claims: Claims = jwt.decode(
                token, key.public_key(), algorithms=[_algorithm(key)], issuer=ISSUER, options=options
            )
        except jwt.InvalidTokenError as err:
            raise InvalidTokenError(str(err)) from err
        return claims

    def public_keys(self) -> dict[str, Any]:
        """The JSON Web Key Set with which others verify our tokens (RFC 7517)."""
        from jwt.algorithms import get_default_algorithms

        key = self._private_key()
        name = _algorithm(key)
        jwk: dict[str, Any] = get_default_algorithms()[name].to_jwk(key.public_key(), as_dict=True)
        return {"keys": [{"use": "sig", "alg": name, "kid": _key_id(key), **jwk}]}

    def _private_key(self) -> PrivateKey:
        with self._lock:
            if self._key is None:
                self._key = _read_key(self._key_file)
            return self._key


def _read_key(path: Path) -> PrivateKey:
    import jwt  # noqa: F401 - the other half of what is slow
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if isinstance(key, rsa.RSAPrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError(f"{path}: a key for service account tokens must be RSA or EC P-256")


def _algorithm(key: PrivateKey) -> str:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"


def _key_id(key: PrivateKey) -> str:
    """As upstream: the SHA-256 of the public key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
