"""NO_PROXY and HTTPS_PROXY have the same meaning as in Go programs."""

import pytest
from yarl import URL

from inkit_exporter.egress import EgressSettings, find_proxy, is_excluded
from inkit_exporter.errors import ConfigError
from inkit_exporter.transport import Way

FROM_ENVIRONMENT = EgressSettings(proxy_from_environment=True)


@pytest.mark.parametrize(
    ("no_proxy", "direct", "proxied"),
    [
        ("", (), ("api.example", "10.0.0.1")),
        ("*", ("api.example", "10.0.0.1", "2001:db8::1"), ()),
        (" , ,", (), ("api.example",)),
        ("other.example, *", ("api.example",), ()),
        ("api.example", ("api.example", "eu.api.example"), ("xapi.example", "example", "api.example.org")),
        (" API.example ,b", ("api.example", "b", "a.b"), ("ab",)),
        (".api.example", ("eu.api.example",), ("api.example", "xapi.example")),
        ("*.api.example", ("eu.api.example", "a.b.api.example"), ("api.example",)),
        ("*api.example", (), ("eu.api.example", "api.example")),
        ("api.*", (), ("api.example",)),
        ("api.example:443", ("api.example", "eu.api.example"), ()),
        ("api.example:8443", (), ("api.example",)),
        ("api.example:", ("api.example",), ()),
        (".api.example:443", ("eu.api.example",), ("api.example",)),
        (":443", (), ("api.example",)),
        ("api.example:4:3", (), ("api.example",)),
        ("https://api.example", (), ("api.example",)),
        ("10.0.0.1", ("10.0.0.1",), ("10.0.0.10", "x.10.0.0.1")),
        ("10.0.0.1:443", ("10.0.0.1",), ()),
        ("10.0.0.1:80", (), ("10.0.0.1",)),
        ("10.0.0.0/8", ("10.200.0.1",), ("11.0.0.1", "api.example", "2001:db8::1")),
        ("10.1.2.3/8", ("10.200.0.1",), ("11.0.0.1",)),
        ("10.0.0.0/255.0.0.0", (), ("10.200.0.1",)),
        ("10.0.0.0/33", (), ("10.0.0.0",)),
        ("10.0.0.0/8:443", (), ("10.0.0.1",)),
        ("2001:db8::1", ("2001:db8::1", "2001:db8:0::1"), ("2001:db8::2",)),
        ("[2001:db8::1]:443", ("2001:db8::1",), ()),
        ("[2001:db8::1]:80", (), ("2001:db8::1",)),
        ("[2001:db8::1]", (), ("2001:db8::1",)),
        ("2001:db8::/32", ("2001:db8:1::1",), ("2001:db9::1", "10.0.0.1")),
        ("::ffff:10.0.0.1", ("10.0.0.1",), ("10.0.0.2",)),
        ("10.0.0.1", ("::ffff:10.0.0.1",), ()),
    ],
)
def test_addresses_in_no_proxy_are_reached_directly(
    no_proxy: str, direct: tuple[str, ...], proxied: tuple[str, ...]
) -> None:
    assert [host for host in (*direct, *proxied) if is_excluded(no_proxy, host, 443)] == list(direct)


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:1", "ALL_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "http://p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "", "https_proxy": "http://q:1"}, "http://q:1"),
        ({"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "p"}, "http://p"),
        ({"HTTPS_PROXY": "https://p/"}, "https://p"),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "example"}, None),
        ({"HTTPS_PROXY": "p:1", "no_proxy": "example"}, None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "other", "no_proxy": "example"}, "http://p:1"),
    ],
)
def test_the_proxy_is_read_from_https_proxy_and_no_proxy(environ: dict[str, str], proxy: str | None) -> None:
    found = find_proxy(URL("https://api.example/v1"), FROM_ENVIRONMENT, environ)
    assert found == (proxy and URL(proxy))
    assert find_proxy(URL("https://api.example/v1"), EgressSettings(), environ) is None


@pytest.mark.parametrize("base_url", ["https://bücher.example/v1", "https://xn--bcher-kva.example/v1"])
@pytest.mark.parametrize("listed", ["bücher.example", "xn--bcher-kva.example", "*.example"])
def test_no_proxy_lists_names_with_any_letters_in_either_form(base_url: str, listed: str) -> None:
    environ = {"HTTPS_PROXY": "p:1", "NO_PROXY": listed}
    assert find_proxy(URL(base_url), FROM_ENVIRONMENT, environ) is None
    assert find_proxy(URL("https://bcher.other"), FROM_ENVIRONMENT, environ) == URL("http://p:1")


@pytest.mark.parametrize(
    ("user_info", "authorization"),
    [
        ("", None),
        ("user:password@", "Basic dXNlcjpwYXNzd29yZA=="),
        ("user@", "Basic dXNlcjo="),
        ("us%40er:p%C3%A4ss@", "Basic dXNAZXI6cMOkc3M="),
        (":p@", "Basic OnA="),
    ],
)
def test_proxy_credentials_are_sent_as_utf_8_and_shown_nowhere(user_info: str, authorization: str | None) -> None:
    way = Way(URL("https://api.example"), FROM_ENVIRONMENT, {"HTTPS_PROXY": f"http://{user_info}p:1"})
    assert way.proxy_headers == ({"Proxy-Authorization": authorization} if authorization else {})
    assert way.via == " through the proxy http://p:1" and way.proxy == URL("http://p:1")


def test_a_user_with_a_colon_is_an_error_because_no_proxy_could_read_it() -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY is not the address of an HTTP proxy"):
        find_proxy(URL("https://api.example"), FROM_ENVIRONMENT, {"HTTPS_PROXY": "http://us%3Aer:p@p:1"})


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"])
def test_loopback_addresses_are_reached_without_a_proxy(host: str) -> None:
    for scheme in ("http", "https"):
        url = URL(f"{scheme}://{host}:8080/v1")
        assert find_proxy(url, EgressSettings(proxy_url="http://p:1"), {}) is None
        assert find_proxy(url, FROM_ENVIRONMENT, {"HTTPS_PROXY": "http://p:1"}) is None
