"""Where settings come from, what is refused, and what is shown of them."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from awakeables.settings import Settings, SettingsRefused, load_settings, read_settings
from unit.cli.conftest import Run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "awakeables.toml"


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('port = 1\nhost = "127.0.0.2"\nkafka = "file:1"\nlinger = 7\nhorizon = "PT3M"\n')
    monkeypatch.setenv("AWAKEABLES_PORT", "2")
    monkeypatch.setenv("AWAKEABLES_HOST", "127.0.0.3")
    loaded = read_settings(file, port=3, kafka=None)
    assert (loaded.settings.port, loaded.settings.host, loaded.settings.kafka) == (3, "127.0.0.3", "file:1")
    assert (loaded.settings.linger, loaded.settings.horizon) == (timedelta(seconds=7), timedelta(minutes=3))
    told = {name: str(loaded.sources[name]) for name in ("port", "host", "kafka", "store")}
    assert told == {
        "port": "flag --port",
        "host": "environment AWAKEABLES_HOST",
        "kafka": f"file {file}",
        "store": "default",
    }


def test_the_environment_names_the_file_unless_a_flag_does(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("port = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("port = 2\n")
    monkeypatch.setenv("AWAKEABLES_CONFIG", str(file))
    assert load_settings().port == 1
    assert load_settings(other).port == 2
    monkeypatch.setenv("AWAKEABLES_CONFIG", "")
    assert load_settings().port == 8080


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", r"prot in .*awakeables\.toml is not a setting; did you mean port\?"),
        ("max-body-bytes = 1", r"max-body-bytes in .* did you mean max_body_bytes\?"),
        ('AWAKEABLES_STORE = "x"', r"AWAKEABLES_STORE in .* did you mean store\?"),
        ("zzzzzz = 1", r"zzzzzz in .*\.toml is not a setting$"),
        ("[kafka]\nhost = 1", r"kafka in .*\.toml: Input should be a valid string"),
        ('port = "many"', r"port in .*\.toml: Input should be a valid integer"),
        ("port = ", r"can't be read as TOML: Invalid value"),
        ("store = '\udcff'", r"can't be read as TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_refused_with_its_place(file: Path, text: str, told: str) -> None:
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SettingsRefused, match=told):
        load_settings(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(SettingsRefused, match="does not exist"):
            load_settings(path)


def test_a_wrong_value_names_the_place_that_it_came_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("threads = 0\nport = -1\n")
    monkeypatch.setenv("AWAKEABLES_THREADS", "none")
    with pytest.raises(SettingsRefused, match=r"AWAKEABLES_THREADS: .*valid integer"):
        load_settings(file, port=1)
    with pytest.raises(SettingsRefused, match=r"--port: .*less than or equal to 65535"):
        load_settings(port=70_000, threads=1)


@pytest.mark.parametrize("text", ["-1", "inf", "1e400", "nan", "", "soon", "-PT1S"])
def test_a_duration_that_can_not_be_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWAKEABLES_LINGER", text)
    with pytest.raises(SettingsRefused, match=r"^AWAKEABLES_LINGER: not a duration; write it as 30 "):
        load_settings()


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "-0.5", "true", "07:30:00", "[1]", '"soon"', "1e30"])
def test_the_error_for_an_invalid_duration_in_a_file_says_how_to_write_one(file: Path, value: str) -> None:
    file.write_text(f"linger = {value}")
    with pytest.raises(SettingsRefused, match=r"linger in .*\.toml: not a duration; .* 7d or PT15M$"):
        load_settings(file)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("0.5", 0.5), ('"1h30m"', 5400), ('"250ms"', 0.25), ('"PT3M"', 180), ('" 30 "', 30)],
)
def test_a_duration_is_a_number_of_seconds_or_a_text(file: Path, value: str, seconds: float) -> None:
    file.write_text(f"linger = {value}")
    assert load_settings(file).linger == timedelta(seconds=seconds)


def test_an_empty_variable_leaves_unset_what_may_be_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("METRICS_PORT", "TOKEN", "TOKENS_FILE", "KAFKA_SSL_CA"):
        monkeypatch.setenv(f"AWAKEABLES_{name}", "")
    settings = load_settings()
    assert (settings.metrics_port, settings.token, settings.tokens_file) == (None, None, None)
    assert settings.kafka_ssl_ca is None


def test_a_misspelled_variable_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWAKEABLES_CONFG", "x")
    with pytest.raises(
        SettingsRefused, match=r"AWAKEABLES_CONFG is not a setting; did you mean AWAKEABLES_CONFIG\?"
    ):
        load_settings()


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_all_settings_are_shown_with_their_sources_and_secrets_masked(run: Run, file: Path) -> None:
    file.write_text('kafka_sasl_password = "hush"\nalways_suspend = true\n')
    told = run("settings", "--config", str(file), AWAKEABLES_TOKEN="hush")
    assert told.exit_code == 0
    rows = {line.split()[0]: line for line in told.stdout.splitlines()[1:]}
    assert rows.keys() == Settings.model_fields.keys()
    assert "hush" not in told.output
    assert "********" in rows["token"]
    assert "environment AWAKEABLES_TOKEN" in rows["token"]
    assert "true" in rows["always_suspend"]
    assert f"file {file}" in rows["always_suspend"]


def test_settings_as_json_mask_secrets_too(run: Run) -> None:
    told = run("settings", "--json", AWAKEABLES_TOKEN="hush")
    rows = {row["setting"]: row for row in json.loads(told.stdout)}
    assert rows["token"]["value"] == "********"
    assert rows["port"]["value"] == 8080
    assert rows["kafka_sasl_password"]["value"] is None


def test_the_file_can_be_named_before_the_command_or_behind_it(run: Run, file: Path) -> None:
    file.write_text("port = 1\n")
    for words in (("--config", str(file), "settings"), ("settings", "--config", str(file))):
        rows = {row["setting"]: row for row in json.loads(run(*words, "--json").stdout)}
        assert rows["port"]["source"] == f"file {file}"


@pytest.mark.parametrize("name", ["HORIZON", "CALL_TIMEOUT", "COMMIT_TIMEOUT"])
def test_a_negative_duration_is_refused_in_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"AWAKEABLES_{name}", "-1")
    with pytest.raises(SettingsRefused, match=rf"AWAKEABLES_{name}: not a duration; write it as 30"):
        load_settings()


@pytest.mark.parametrize("name", ["PURGE_INTERVAL", "REQUEST_TIMEOUT", "COMMIT_TIMEOUT"])
def test_no_time_at_all_is_refused_where_there_must_be_some(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"AWAKEABLES_{name}", "0")
    with pytest.raises(SettingsRefused, match=rf"AWAKEABLES_{name}: .*greater than 0 seconds"):
        load_settings()
