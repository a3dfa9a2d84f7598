"""Sizes, addresses, secrets and the masking of URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from flusso_sync.config.models import OpenSearchSink
from flusso_sync.config.values import Address, Secret, Setting, mask_url, parse_address, parse_size
from flusso_sync.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (7, 7),
        ("7", 7),
        ("7B", 7),
        ("1kB", 1024),
        ("32MB", 32 * 2**20),
        ("10GB", 10 * 2**30),
        ("10 GiB", 10 * 2**30),
        ("1.5g", 3 * 2**29),
        ("2tb", 2**41),
    ],
)
def test_sizes_take_units_in_powers_of_1024(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("value", ["", "MB", "10XB", "-1", "1,5MB", True, 1.5, None, [1]])
def test_what_is_no_size_is_a_sentence(value: object) -> None:
    with pytest.raises(ValueError, match="must be a size such as 32MB"):
        parse_size(value)


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("127.0.0.1:9464", Address("127.0.0.1", 9464), "127.0.0.1:9464"),
        (" 0.0.0.0:0 ", Address("0.0.0.0", 0), "0.0.0.0:0"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
    ],
)
def test_an_address_is_a_literal_ip_and_a_port(text: str, address: Address, shown: str) -> None:
    assert parse_address(text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    "text", ["localhost:80", "127.0.0.1", ":80", "::1:80", "[127.0.0.1]:80", "1.2.3.4:65536", "1.2.3.4:x"]
)
def test_what_is_no_address_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="must be IP:port"):
        parse_address(text)


def test_only_loopback_addresses_are_loopback() -> None:
    assert Address("127.0.0.5", 1).is_loopback
    assert Address("::1", 1).is_loopback
    assert not Address("0.0.0.0", 1).is_loopback


def test_a_literal_secret_never_shows() -> None:
    secret = Secret("geheim")
    assert "geheim" not in f"{secret!r} {secret} {[secret]} {vars(type(secret))}"
    assert str(secret) == "***"
    assert secret.resolve() == "geheim"


def test_a_reference_shows_its_name_and_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("one\n")
    variable, secret = Secret(env="WORD"), Secret(file=str(file))
    assert str(variable) == "${WORD}"
    assert variable.resolve({"WORD": "a"}) == "a"
    assert variable.resolve({"WORD": "b"}) == "b"
    assert secret.resolve() == "one"
    file.write_text("two\r\n")
    assert secret.resolve() == "two"


def test_a_reference_that_leads_nowhere_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source\.password: the environment variable GONE is not set"):
        Secret(env="GONE").resolve({}, key="source.password")
    with pytest.raises(ConfigError, match="cannot be read"):
        Secret(file=str(tmp_path / "gone")).resolve()
    (tmp_path / "binary").write_bytes(b"geheim\xff")
    with pytest.raises(ConfigError, match="not UTF-8") as caught:
        Secret(file=str(tmp_path / "binary")).resolve()
    assert caught.value.__cause__ is None


def test_a_reference_is_a_value() -> None:
    assert Secret(env="A") == Secret(env="A")
    assert len({Secret("x"), Secret("x"), Secret("y")}) == 2
    assert Secret("x") != Setting("x")
    with pytest.raises(AttributeError, match="read-only"):
        Secret("x").literal = "y"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://user:geheim@host/db", "postgres://user:***@host/db"),
        ("postgres://user@host/db", "postgres://user@host/db"),
        ("postgres://host:5432/db", "postgres://host:5432/db"),
        ("postgres://u:ge@heim@host/db", "postgres://u:***@host/db"),
        ("postgres://u:ge/he?im@host/db", "postgres://u:***@host/db"),
        ("postgres://u:@host/db", "postgres://u:***@host/db"),
        ("postgres:///db?user=u&password=geheim&sslmode=require", "postgres:///db?user=u&password=***&sslmode=require"),
        ("https://u:geheim@os:9200", "https://u:***@os:9200"),
        ("https://os:9200", "https://os:9200"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert mask_url(url) == shown
    assert str(Setting(url)) == shown


@pytest.mark.parametrize(("given_seconds", "acts_as"), [(30, 30.0), (0, 1.0), (2**64 - 1, 1e6), (1_000_001, 1e6)])
def test_a_timeout_longer_than_a_socket_can_wait_acts_as_the_longest(given_seconds: int, acts_as: float) -> None:
    sink = OpenSearchSink.model_validate({"type": "opensearch", "url": "http://s", "timeout_secs": given_seconds})
    assert sink.timeout_secs == acts_as
    assert sink.timeout_secs * 1000 < 2**31


@pytest.mark.parametrize(
    "text, shown",
    [
        ("postgresql://app:secret@db/shop", "postgresql://app:***@db/shop"),
        ("postgresql://app:secret", "postgresql://app:***"),
        ("postgresql://db:5432/shop", "postgresql://db:5432/shop"),
        ("postgresql://a:5432,b:5433/shop", "postgresql://a:5432,b:5433/shop"),
        ("http://[::1]:9200", "http://[::1]:9200"),
        ("host=db user=app password=secret", "***"),
        ("app:secret at home", "***"),
        ("app", "app"),
        ("app@example.com", "app@example.com"),
    ],
)
def test_a_setting_shows_what_cannot_be_a_password(text: str, shown: str) -> None:
    assert str(Setting(text)) == shown
