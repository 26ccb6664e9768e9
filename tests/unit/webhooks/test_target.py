"""Which addresses are public, and what a URL is taken apart into."""

import pytest

from app.webhooks.target import PORTS, Target, UnusableTarget, addresses, is_global, parse


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_public_addresses_are_known(address: str) -> None:
    assert is_global(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104 - nothing is bound to it
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:c0a8:101::1",
        "fc00::1",
        "fe80::1",
        "fe80::1%1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_all_others_are_not(address: str) -> None:
    assert not is_global(address)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.org", Target(b"https", b"example.org", 443, b"/", b"example.org")),
        ("https://Example.ORG:443/a?b=@c", Target(b"https", b"example.org", 443, b"/a?b=@c", b"example.org")),
        ("https://example.org:8443/a", Target(b"https", b"example.org", 8443, b"/a", b"example.org:8443")),
        ("http://[::1]:81/", Target(b"http", b"::1", 81, b"/", b"[::1]:81")),
        (
            "https://bücher.example/ä",
            Target(b"https", b"xn--bcher-kva.example", 443, b"/%C3%A4", b"xn--bcher-kva.example"),
        ),
    ],
)
def test_a_url_is_taken_apart_as_it_goes_over_the_wire(url: str, target: Target) -> None:
    assert parse(url, private=True) == target


def test_plain_http_and_other_schemes_are_refused() -> None:
    assert set(PORTS) == {"http", "https"}
    with pytest.raises(UnusableTarget) as refused:
        parse("http://example.org/", private=False)
    assert refused.value.code == "https_only"
    for url in ("ws://example.org/", "gopher://example.org/", "//example.org/", "example.org", ""):
        with pytest.raises(UnusableTarget) as refused:
            parse(url, private=True)
        assert refused.value.code == "invalid_url"


def test_a_name_is_looked_up_and_each_of_its_addresses_must_be_public() -> None:
    local = parse("https://localhost/", private=False)
    assert "127.0.0.1" in addresses(local, private=True)
    with pytest.raises(UnusableTarget) as refused:
        addresses(local, private=False)
    assert refused.value.code == "host_not_allowed"
    assert addresses(parse("https://8.8.8.8/", private=False), private=False) == ["8.8.8.8"]
