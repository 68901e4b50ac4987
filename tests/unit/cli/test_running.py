"""What `dev` says once it is ready."""

from __future__ import annotations

import pytest
from examples.shop import app, packer

from awakeables.cli.running import _print_what_to_try


def test_the_hints_name_every_handler_and_no_value_of_a_type_that_may_not_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _print_what_to_try(app, [packer], "http://127.0.0.1:8081", embedded=True, guarded=False)
    told = capsys.readouterr().err
    assert "curl http://127.0.0.1:8081/orders/fulfil" in told
    assert "awakeables resolve --url http://127.0.0.1:8081 prom_1… VALUE\n" in told
