"""The TLS context of a web configuration."""

import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from inkit_exporter.errors import ConfigError, reason_of
from inkit_exporter.yamlfile import Section

T = TypeVar("T")
Read = Callable[[Path], bytes]


class TlsSection(Section, frozen=True):
    """The section `tls_server_config` of the file."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: str = ""
    client_allowed_sans: tuple[str, ...] | None = None
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[str, ...] = ()


class _CheckedObject(ssl.SSLObject):
    """A connection that checks the names in the client's certificate, if its context lists names."""

    def do_handshake(self) -> None:
        super().do_handshake()
        allowed = getattr(self.context, "allowed_sans", None)
        if allowed and allowed.isdisjoint(_sans(self.getpeercert() or {})):
            raise ssl.SSLCertVerificationError("the client certificate has none of client_allowed_sans")


class TlsContext(ssl.SSLContext):
    """A context that may require certain names in the clients' certificates."""

    sslobject_class = _CheckedObject
    allowed_sans: frozenset[str] = frozenset()


REFUSING = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
"""A context that refuses all clients, with an alert."""
REFUSING.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_INTERNAL_ERROR


def make_context(section: TlsSection, folder: Path, read: Read) -> TlsContext | None:
    """Make the context that a section asks for; None if the section is empty. File names are relative to the folder.

    Raises ConfigError with place and remedy.
    """
    if section == TlsSection():
        return None
    context = TlsContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        cert, key, client_ca = (_read_pem(section, name, folder, read) for name in ("cert", "key", "client_ca"))
        _load_pair(context, cert, key)
        _set_client_policy(context, section, client_ca)
        _set_algorithms(context, section)
    except ConfigError as error:
        raise ConfigError(f"tls_server_config.{error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"tls_server_config: OpenSSL refuses it ({error})") from None
    return context


def choose(name: str, choices: Mapping[str, T], place: str) -> T:
    """Look up a choice by its name. Raises ConfigError with the place and all names."""
    if name not in choices:
        raise ConfigError(f"{place}: `{name}` is unknown; known are {', '.join(choices)}")
    return choices[name]


_VERIFY_MODES = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
# OpenSSL 3 refuses 1.0 and 1.1 at its default security level. As a minimum, both mean 1.2.
_VERSIONS = dict.fromkeys(("TLS10", "TLS11", "TLS12"), ssl.TLSVersion.TLSv1_2) | {"TLS13": ssl.TLSVersion.TLSv1_3}
# OpenSSL's name by Go's name. Neither Go nor Python can choose among the suites of TLS 1.3.
_SUITES = {
    f"TLS_ECDHE_{key}_WITH_{name}": f"ECDHE-{key}-{openssl_name}"
    for key in ("RSA", "ECDSA")
    for name, openssl_name in {
        "AES_128_CBC_SHA": "AES128-SHA",
        "AES_256_CBC_SHA": "AES256-SHA",
        "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
        "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
        "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
    }.items()
} | dict.fromkeys(("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"), "")
_CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}


class _Pem(NamedTuple):
    data: bytes
    path: Path | None


def _read_pem(section: TlsSection, key: str, folder: Path, read: Read) -> _Pem | None:
    inline, name = getattr(section, key), getattr(section, f"{key}_file")
    if inline and name:
        raise ConfigError(f"{key}: excludes {key}_file; keep one")
    if not name:
        return _Pem(inline.encode(), None) if inline else None
    path = folder / name
    try:
        return _Pem(read(path), path)
    except OSError as error:
        raise ConfigError(f"{key}_file: {path} can't be read: {reason_of(error)}") from None


def _load_pair(context: ssl.SSLContext, cert: _Pem | None, key: _Pem | None) -> None:
    if cert is None or key is None:
        raise ConfigError(f"{'key_file' if cert else 'cert_file'}: missing; TLS needs a certificate and its key")
    _load_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, "cert_file")  # only to check them
    try:
        with _as_path(cert) as cert_path, _as_path(key) as key_path:
            context.load_cert_chain(cert_path, key_path, password=lambda: "")  # or OpenSSL would ask the terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError("key_file: is not the key of the certificate in cert_file") from None
        reason = error.reason or "unreadable"
        raise ConfigError(f"key_file: is not a PEM key without a password, or not one for TLS ({reason})") from None


def _load_certificates(context: ssl.SSLContext, pem: _Pem, place: str) -> None:
    try:
        context.load_verify_locations(cadata=pem.data.decode("ascii", "ignore"))  # comments may have other letters
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{place}: contains no valid certificate in PEM format") from None


@contextmanager
def _as_path(pem: _Pem) -> Iterator[Path | str]:
    """A path for OpenSSL, which reads only files. Inline certificates and keys become files in memory, not on disk."""
    if pem.path:
        yield pem.path
        return
    if not hasattr(os, "memfd_create"):
        raise ConfigError("cert, key: inline certificates and keys need Linux; write cert_file and key_file")
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(pem.data)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _set_client_policy(context: TlsContext, section: TlsSection, client_ca: _Pem | None) -> None:
    kind = section.client_auth_type or "NoClientCert"
    if kind in _UNVERIFIED:
        raise ConfigError(
            f"client_auth_type: Python can't accept client certificates that no CA has signed, as {kind} does; "
            "write RequireAndVerifyClientCert, or NoClientCert to let any client in"
        )
    context.verify_mode = mode = choose(kind, _VERIFY_MODES, "client_auth_type")
    if client_ca:
        if mode is ssl.CERT_NONE:
            raise ConfigError("client_auth_type: missing; client_ca_file is for RequireAndVerifyClientCert")
        _load_certificates(context, client_ca, "client_ca_file")
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as Go does: trust may begin at an intermediate CA
    elif mode is ssl.CERT_OPTIONAL:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)  # as Go does; clients without a certificate get in
    elif mode is ssl.CERT_REQUIRED:
        raise ConfigError(f"client_ca_file: missing; {kind} needs the CA of the clients")
    if section.client_allowed_sans is not None:
        if mode is not ssl.CERT_REQUIRED:
            raise ConfigError("client_allowed_sans: needs client_auth_type: RequireAndVerifyClientCert")
        if not section.client_allowed_sans:
            raise ConfigError("client_allowed_sans: is empty, so nobody could connect; list names")
        context.allowed_sans = frozenset(section.client_allowed_sans)


def _set_algorithms(context: ssl.SSLContext, section: TlsSection) -> None:
    if section.max_version in ("TLS10", "TLS11"):
        raise ConfigError(f"max_version: OpenSSL no longer speaks {section.max_version}; write TLS12 or TLS13")
    minimum = choose(section.min_version, _VERSIONS, "min_version")
    maximum = choose(section.max_version, _VERSIONS, "max_version")
    suites = [choose(name, _SUITES, "cipher_suites") for name in section.cipher_suites]
    if any(suites):
        context.set_ciphers(":".join(filter(None, suites)))
    elif suites:
        minimum = ssl.TLSVersion.TLSv1_3  # no suite is left for TLS 1.2
    if minimum > maximum:
        raise ConfigError("max_version: no TLS version fits it, min_version and cipher_suites together; raise it")
    context.minimum_version, context.maximum_version = minimum, maximum
    if not section.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    curves = [choose(name, _CURVES, "curve_preferences") for name in section.curve_preferences]
    if len(curves) > 1:
        raise ConfigError("curve_preferences: Python takes one curve only; keep one, or leave it out")
    for curve in curves:
        context.set_ecdh_curve(curve)


def _sans(certificate: Mapping[str, Any]) -> set[str]:
    """The subject alternative names in a client's certificate. IP addresses are written as Go writes them."""
    names = set()
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in ("DNS", "email", "URI"):
            names.add(value)
        elif kind == "IP Address":
            with suppress(ValueError):
                address = ip_address(value.strip())
                names.add(str(getattr(address, "ipv4_mapped", None) or address))
    return names
