"""Kafka's credentials: what contradicts is refused by the variable's name, and no secret is shown."""

from __future__ import annotations

import logging
import ssl
import traceback
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from cryptography.hazmat.primitives import serialization

from awakeables.credentials import security_of
from awakeables.kafka.connection import Security
from awakeables.runtime import PLAIN, connection_of
from awakeables.settings import Settings, SettingsRefused, load_settings
from awakeables.telemetry.logs import configure_logs

SECRET = "correct-horse-battery"
SASL: dict[str, Any] = {
    "kafka_security_protocol": "SASL_SSL",
    "kafka_sasl_mechanism": "SCRAM-SHA-512",
    "kafka_sasl_username": "shop",
    "kafka_sasl_password": SECRET,
}
KEY_PASSWORD = "AWAKEABLES_KAFKA_SSL_KEY_PASSWORD"


class Files:
    """PEM files of an authority and a client, and some that are neither."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        client, other = authority.issue_cert("shop"), authority.issue_cert("other")
        self.ca = self._write(folder / "ca.pem", authority.cert_pem.bytes())
        self.cert = self._write(folder / "cert.pem", client.cert_chain_pems[0].bytes())
        self.key = self._write(folder / "key.pem", client.private_key_pem.bytes())
        self.other_key = self._write(folder / "other.pem", other.private_key_pem.bytes())
        self.both = self._write(folder / "both.pem", client.private_key_and_cert_chain_pem.bytes())
        self.locked = self._write(folder / "locked.pem", _locked(client.private_key_pem.bytes()))
        self.text = self._write(folder / "text.pem", b"no PEM at all")
        self.nowhere = folder / "nowhere.pem"

    @staticmethod
    def _write(path: Path, content: bytes) -> Path:
        path.write_bytes(content)
        return path


def _locked(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(SECRET.encode()),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("papers"))


def refusal(**settings: Any) -> str:
    with pytest.raises(SettingsRefused) as caught:
        security_of(load_settings(**settings))
    told = str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return told


def test_without_settings_kafka_is_plain() -> None:
    options = connection_of(load_settings(), "test").client_options()
    assert options["security_protocol"] == "PLAINTEXT"
    assert options["ssl_context"] is None
    assert not [name for name in options if name.startswith("sasl")]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_every_client_gets_the_credentials(mechanism: str) -> None:
    connection = connection_of(load_settings(**SASL | {"kafka_sasl_mechanism": mechanism}), "test")
    for options in (
        connection.client_options(),
        connection.consumer_options(),
        connection.producer_options(),
    ):
        assert options["security_protocol"] == "SASL_SSL"
        assert options["sasl_mechanism"] == mechanism
        assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("shop", SECRET)


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_the_brokers_certificate_and_host_name_are_always_checked(protocol: str, files: Files) -> None:
    given: dict[str, Any] = SASL if protocol == "SASL_SSL" else {"kafka_security_protocol": protocol}
    for ca in (None, files.ca):
        context = security_of(load_settings(**given, kafka_ssl_ca=ca)).tls
        assert context is not None
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_only_the_named_authority_is_trusted(files: Files) -> None:
    context = security_of(load_settings(kafka_security_protocol="SSL", kafka_ssl_ca=files.ca)).tls
    assert context is not None
    assert len(context.get_ca_certs()) == 1


def test_empty_variables_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        if name.startswith(("kafka_sasl", "kafka_ssl")):
            monkeypatch.setenv(f"AWAKEABLES_{name.upper()}", "")
    assert security_of(load_settings()).protocol == "PLAINTEXT"


# ── contradictions ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kafka_sasl_mechanism", "PLAIN"),
        ("kafka_sasl_username", "shop"),
        ("kafka_sasl_password", SECRET),
        ("kafka_ssl_ca", "ca.pem"),
        ("kafka_ssl_cert", "cert.pem"),
        ("kafka_ssl_key", "key.pem"),
        ("kafka_ssl_key_password", SECRET),
    ],
)
def test_a_credential_that_the_protocol_has_no_use_for_is_refused(name: str, value: str) -> None:
    told = refusal(**{name: value})
    assert told.startswith(f"AWAKEABLES_{name.upper()}: has no effect with ")
    assert "AWAKEABLES_KAFKA_SECURITY_PROTOCOL=PLAINTEXT; set that to" in told


def test_a_user_is_of_no_use_with_tls_alone_nor_an_authority_without_tls() -> None:
    told = refusal(kafka_security_protocol="SSL", kafka_sasl_username="shop")
    assert told.endswith("set that to SASL_SSL")
    told = refusal(**SASL | {"kafka_security_protocol": "SASL_PLAINTEXT"}, kafka_ssl_ca="ca.pem")
    assert told.startswith("AWAKEABLES_KAFKA_SSL_CA: has no effect with")
    assert told.endswith("set that to SASL_SSL")


@pytest.mark.parametrize("missing", ["kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password"])
@pytest.mark.parametrize("protocol", ["SASL_SSL", "SASL_PLAINTEXT"])
def test_sasl_without_all_of_its_credentials_is_refused(protocol: str, missing: str) -> None:
    told = refusal(**SASL | {"kafka_security_protocol": protocol, missing: None})
    assert (
        told == f"AWAKEABLES_{missing.upper()}: required with AWAKEABLES_KAFKA_SECURITY_PROTOCOL={protocol}"
    )


def test_a_certificate_needs_its_key_and_a_key_its_certificate(files: Files) -> None:
    tls: dict[str, Any] = {"kafka_security_protocol": "SSL"}
    assert refusal(**tls, kafka_ssl_cert=files.cert).startswith("AWAKEABLES_KAFKA_SSL_KEY: required with")
    assert refusal(**tls, kafka_ssl_key=files.key).startswith("AWAKEABLES_KAFKA_SSL_CERT: required with")
    assert refusal(**tls, kafka_ssl_key_password=SECRET).startswith(f"{KEY_PASSWORD}: has no effect without")


@pytest.mark.parametrize("bootstrap", [f"shop:{SECRET}@kafka:9092", "ssl://kafka:9092", "kafka:many"])
def test_brokers_that_are_not_host_and_port_are_refused_without_showing_them(bootstrap: str) -> None:
    with pytest.raises(SettingsRefused, match=r"^--kafka: not host:port") as refused:
        load_settings(kafka=f"kafka:9092,{bootstrap}")
    assert bootstrap not in str(refused.value)


@pytest.mark.parametrize("bootstrap", ["", " ", ":9092", "kafka:9092,", "kafka:"])
def test_brokers_that_are_not_named_are_refused(bootstrap: str) -> None:
    with pytest.raises(SettingsRefused, match=r"^--kafka: not host:port"):
        load_settings(kafka=bootstrap)


@pytest.mark.parametrize("port", ["0", "65536", "99999999"])
def test_a_port_that_there_is_not_is_refused(port: str) -> None:
    with pytest.raises(SettingsRefused, match=f"^--kafka: '{port}' is not a port number"):
        load_settings(kafka=f"a:9092,b:{port}")


@pytest.mark.parametrize(
    "bootstrap", ["kafka", "kafka:9092", "a:1, b:2", "[::1]:9092", "::1", "10.0.0.1:9092"]
)
def test_brokers_are_named_as_usual(bootstrap: str) -> None:
    assert security_of(load_settings(kafka=bootstrap)).protocol == "PLAINTEXT"


# ── files ──────────────────────────────────────────────────────────────────────────────────────


def certificate(files: Files, **others: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "kafka_security_protocol": "SSL",
        "kafka_ssl_cert": files.cert,
        "kafka_ssl_key": files.key,
    }
    return given | others


def test_a_certificate_is_loaded_with_its_key_from_two_files_or_one(files: Files) -> None:
    security_of(load_settings(**certificate(files)))
    security_of(load_settings(**certificate(files, kafka_ssl_cert=files.both, kafka_ssl_key=files.both)))


@pytest.mark.parametrize("name", ["kafka_ssl_ca", "kafka_ssl_cert", "kafka_ssl_key"])
def test_a_file_that_is_not_there_or_holds_something_else_is_named(files: Files, name: str) -> None:
    told = refusal(**certificate(files, **{name: files.nowhere}))
    assert told == f"AWAKEABLES_{name.upper()}: {files.nowhere} can't be read: No such file or directory"
    told = refusal(**certificate(files, **{name: files.text}))
    assert told.startswith(f"AWAKEABLES_{name.upper()}: {files.text} has no ")


def test_the_key_of_another_certificate_is_refused(files: Files) -> None:
    told = refusal(**certificate(files, kafka_ssl_key=files.other_key))
    assert (
        told
        == f"AWAKEABLES_KAFKA_SSL_KEY: {files.other_key} is not the key of the certificate in {files.cert}"
    )


def test_an_encrypted_key_is_opened_by_its_password_and_nothing_else(files: Files) -> None:
    locked = certificate(files, kafka_ssl_key=files.locked)
    assert refusal(**locked) == f"{KEY_PASSWORD}: required, because {files.locked} is encrypted"
    assert refusal(**locked, kafka_ssl_key_password="no") == f"{KEY_PASSWORD}: can't decrypt {files.locked}"
    security_of(load_settings(**locked, kafka_ssl_key_password=SECRET))


# ── secrets ────────────────────────────────────────────────────────────────────────────────────


def test_no_secret_is_shown_by_settings_or_connection(files: Files) -> None:
    tls: dict[str, Any] = {
        "kafka_ssl_cert": files.cert,
        "kafka_ssl_key": files.locked,
        "kafka_ssl_key_password": SECRET,
    }
    settings = load_settings(**SASL, **tls)
    connection = connection_of(settings, "test")
    for shown in (
        repr(settings),
        str(settings),
        repr(settings.model_dump()),
        settings.model_dump_json(),
        repr(connection),
        str(connection.security),
    ):
        assert SECRET not in shown
        assert "shop" in shown


def test_a_setting_of_the_wrong_type_is_refused_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWAKEABLES_KAFKA_SASL_MECHANISM", SECRET)  # pasted into the wrong line
    with pytest.raises(SettingsRefused, match="KAFKA_SASL_MECHANISM") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("format_", ["console", "json"])
def test_a_logged_stack_shows_no_variables_of_its_frames(
    format_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, level = structlog.get_config(), logging.getLogger("aiokafka").level
    try:
        configure_logs(format_=format_, level="debug")
        log = structlog.stdlib.get_logger("test")
        options = connection_of(load_settings(**SASL), "test").client_options()
        try:
            raise RuntimeError("no " + options["client_id"])
        except RuntimeError as error:
            log.error("broken", exc_info=error)
    finally:
        structlog.configure(**before)
        logging.getLogger("aiokafka").setLevel(level)
    shown = capsys.readouterr().err
    assert "RuntimeError: no test" in shown
    assert SECRET not in shown


def test_the_embedded_broker_of_dev_needs_no_credentials(files: Files) -> None:
    local = load_settings(**SASL, kafka_ssl_ca=files.ca).model_copy(update=PLAIN)
    assert security_of(local) == Security()
