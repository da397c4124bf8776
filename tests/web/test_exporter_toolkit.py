"""What exporter-toolkit accepts and refuses in its own test files (web/testdata), and where this exporter differs."""

import re
from typing import Any, NamedTuple

import bcrypt
import pytest
import yaml
from support import ROOT
from support.web import CLIENTS, HASH, SERVER, VERIFIED, World

from inkit_exporter.errors import ConfigError
from inkit_exporter.web.toolkit.config import load

DIFFERENCES = (ROOT / "docs" / "web-configuration.md").read_text().partition("## exporter-toolkit's test files")[2]


class Case(NamedTuple):
    """The configuration in one of its test files, and whether exporter-toolkit (`there`) and we (`here`) accept it."""

    sections: dict[str, Any] | str
    there: bool
    here: bool


def tls(section: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {"tls_server_config": section, **sections}


IF_GIVEN = SERVER | {"client_auth_type": "VerifyClientCertIfGiven"}
SUITE = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"
USERS = {
    "alice": HASH.replace("$2b", "$2y"),
    "bob": "$2y$18" + HASH[6:],
    "carol": bcrypt.hashpw(b"", bcrypt.gensalt(4)).decode(),
}
CASES = {
    "tls_config_noAuth.requireandverifyclientcert.good.yml": Case(tls(VERIFIED), there=True, here=True),
    "tls_config_noAuth.requireanyclientcert.good.yml": Case(
        tls(SERVER | {"client_auth_type": "RequireAnyClientCert"}), there=True, here=False
    ),
    "web_config_auth_clientCAs_invalid.bad.yml": Case(
        tls(SERVER | {"client_ca_file": "somefile"}), there=False, here=False
    ),
    "web_config_auth_clientCAs_missing.bad.yml": Case(
        tls(SERVER | {"client_auth_type": "RequireAndVerifyClientCert"}), there=True, here=False
    ),
    "web_config_auth_client_san.good.yaml": Case(
        tls(VERIFIED | {"client_allowed_sans": ["one", "two"]}), there=True, here=True
    ),
    "web_config_auth_user_list_invalid.bad.yml": Case(
        tls(SERVER, basic_auth_users={"john": "doe"}), there=False, here=False
    ),
    "web_config_empty.yml": Case("", there=True, here=True),
    "web_config_headers.good.yml": Case(
        {
            "http_server_config": {
                "headers": {
                    "X-Frame-Options": "deny",
                    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
                    "X-Content-Type-Options": "nosniff",
                    "X-XSS-Protection": 1,
                    "Content-Security-Policy": "default-src 'self' *.test.example.net",
                }
            }
        },
        there=True,
        here=True,
    ),
    "web_config_headers_content_type_options.bad.yml": Case(
        {"http_server_config": {"headers": {"X-Content-Type-Options": "sniff"}}}, there=False, here=False
    ),
    "web_config_headers_extra_header.bad.yml": Case(
        {"http_server_config": {"headers": {"Content-Type": "foo"}}}, there=False, here=False
    ),
    "web_config_headers_frame_options.bad.yml": Case(
        {"http_server_config": {"headers": {"X-Frame-Options": "foo"}}}, there=False, here=False
    ),
    "web_config_junk.yml": Case("hWkNKCp3\nTuEjdwNS\n", there=False, here=False),
    "web_config_junk_key.yml": Case(tls({"cert_filse": "server.pem"}), there=False, here=False),
    "web_config_noAuth.bad.yml": Case(tls(CLIENTS), there=False, here=False),
    "web_config_noAuth.good.yml": Case(tls(IF_GIVEN), there=True, here=True),
    "web_config_noAuth_allCiphers.good.yml": Case(
        tls(
            IF_GIVEN
            | {
                "cipher_suites": [
                    *(
                        f"TLS_ECDHE_{key}_WITH_{name}"
                        for key in ("ECDSA", "RSA")
                        for name in (
                            "AES_128_GCM_SHA256",
                            "AES_256_GCM_SHA384",
                            "CHACHA20_POLY1305_SHA256",
                            "AES_128_CBC_SHA",
                            "AES_256_CBC_SHA",
                        )
                    ),
                    "TLS_AES_128_GCM_SHA256",
                    "TLS_AES_256_GCM_SHA384",
                    "TLS_CHACHA20_POLY1305_SHA256",
                ]
            }
        ),
        there=True,
        here=True,
    ),
    "web_config_noAuth_allCurves.good.yml": Case(
        tls(IF_GIVEN | {"curve_preferences": ["CurveP256", "CurveP384", "CurveP521", "X25519"]}),
        there=True,
        here=False,
    ),
    "web_config_noAuth_certPath_empty.bad.yml": Case(tls(SERVER | {"cert_file": ""}), there=False, here=False),
    "web_config_noAuth_certPath_invalid.bad.yml": Case(
        tls(SERVER | {"cert_file": "somefile"}), there=False, here=False
    ),
    "web_config_noAuth_certPath_keyPath_empty.bad.yml": Case(
        tls({"cert_file": "", "key_file": "", "client_auth_type": "x"}), there=False, here=False
    ),
    "web_config_noAuth_cert_empty.bad.yml": Case(tls({"cert": "", "key_file": "server.key"}), there=False, here=False),
    "web_config_noAuth_inventedCiphers.bad.yml": Case(
        tls(IF_GIVEN | {"cipher_suites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048"]}), there=False, here=False
    ),
    "web_config_noAuth_inventedCurves.bad.yml": Case(
        tls(IF_GIVEN | {"curve_preferences": ["CurveP257"]}), there=False, here=False
    ),
    "web_config_noAuth_keyPath_empty.bad.yml": Case(tls(SERVER | {"key_file": ""}), there=False, here=False),
    "web_config_noAuth_keyPath_invalid.bad.yml": Case(tls(SERVER | {"key_file": "somefile"}), there=False, here=False),
    "web_config_noAuth_key_empty.bad.yml": Case(tls({"cert_file": "server.pem", "key": ""}), there=False, here=False),
    "web_config_noAuth_noHTTP2.good.yml": Case(
        tls(IF_GIVEN | {"cipher_suites": [SUITE], "max_version": "TLS12"}, http_server_config={"http2": False}),
        there=True,
        here=True,
    ),
    "web_config_noAuth_noHTTP2Cipher.bad.yml": Case(
        tls(IF_GIVEN | {"cipher_suites": [SUITE], "max_version": "TLS12"}), there=False, here=True
    ),
    "web_config_noAuth_someCiphers_noOrder.good.yml": Case(
        tls(
            IF_GIVEN
            | {
                "cipher_suites": [SUITE, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
                "prefer_server_cipher_suites": False,
                "min_version": "TLS12",
                "max_version": "TLS12",
            }
        ),
        there=True,
        here=True,
    ),
    "web_config_noAuth_someCurves.good.yml": Case(
        tls(IF_GIVEN | {"min_version": "TLS13", "curve_preferences": ["CurveP521"]}), there=True, here=True
    ),
    "web_config_noAuth_wrongTLSVersion.bad.yml": Case(
        tls(IF_GIVEN | {"min_version": "TLS111"}), there=False, here=False
    ),
    "web_config_rate_limiter_nonblocking.yaml": Case(
        {"rate_limit": {"interval": 0, "burst": 0}}, there=True, here=True
    ),
    "web_config_rate_limiter_one_second.yaml": Case(
        {"rate_limit": {"interval": "1s", "burst": 0}}, there=True, here=False
    ),
    "web_config_users.good.yml": Case(tls(SERVER, basic_auth_users=USERS), there=True, here=True),
    "web_config_users_noTLS.good.yml": Case({"basic_auth_users": USERS}, there=True, here=True),
}


@pytest.mark.parametrize("name", CASES)
def test_the_exporter_accepts_what_exporter_toolkit_accepts_with_documented_exceptions(world: World, name: str) -> None:
    case = CASES[name]
    text = case.sections if isinstance(case.sections, str) else yaml.safe_dump(case.sections)
    path = world.write_text(text)
    if case.here:
        load(path)
    else:
        with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: "):
            load(path)


def test_the_documented_differences_are_the_real_ones() -> None:
    documented = set(re.findall(r"^\| `([^`]+)` \|", DIFFERENCES, flags=re.MULTILINE))
    assert documented == {name for name, case in CASES.items() if case.here is not case.there}
