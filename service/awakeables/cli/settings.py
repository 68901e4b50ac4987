"""`settings`: every setting, its value and where it comes from."""

from __future__ import annotations

import msgspec
from pydantic import SecretStr

from awakeables.cli.options import AsJson, Config, Wide
from awakeables.cli.tables import TableLayout
from awakeables.cli.terminal import print_json, print_table
from awakeables.settings import Settings, SourcedSettings, read_settings
from awakeables.store.urls import shown_store

MASK = "********"
_TABLE = TableLayout(names=("setting", "value", "source", "meaning"), prose="meaning")


def settings(wide: Wide = False, json_: AsJson = False, config: Config = None) -> None:
    """Show every setting, its value and where it comes from. Secrets are masked."""
    loaded = read_settings(config)
    rows = [
        {
            "setting": name,
            "value": _displayed(loaded, name),
            "source": str(loaded.sources[name]),
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if json_:
        print_json(msgspec.json.encode(rows))
    else:
        print_table(_TABLE, rows, none="", wide=wide)


def _displayed(loaded: SourcedSettings, name: str) -> object:
    """The value as it is written in a file or a variable; a secret is masked or left out."""
    value = getattr(loaded.settings, name)
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    if name == "store":
        return shown_store(value)
    plain = loaded.settings.model_dump(mode="json", include={name})[name]
    return str(plain).lower() if isinstance(plain, bool) else plain
