"""The example of the README, run with the testing kit."""

from __future__ import annotations

from datetime import timedelta

import pytest
from examples import shop

from awakeables import TerminalError
from awakeables.testing import run


@pytest.mark.parametrize("suspend", [True, False], ids=["suspending at every await", "live"])
class TestShop:
    def test_an_order_is_packed(self, suspend: bool) -> None:
        told = run(shop.fulfil, shop.Order(id="o-1"), workers=[shop.packer], suspend=suspend)
        assert told.value == {"order": "o-1", "parcel": {"tracking": "parcel-of-o-1"}}
        assert [record.topic for record in told.published] == ["pack-requests"]

    def test_what_is_out_of_stock_is_refunded_and_refused(self, suspend: bool) -> None:
        told = run(shop.fulfil, shop.Order(id="o-1", item="unicorn"), workers=[shop.packer], suspend=suspend)
        with pytest.raises(TerminalError, match="out of stock") as caught:
            _ = told.value
        assert caught.value.code == 409
        assert "run 'refund'" in told.journal

    def test_what_nobody_packs_is_refunded_after_four_hours(self, suspend: bool) -> None:
        told = run(shop.fulfil, shop.Order(id="o-1"), suspend=suspend)
        with pytest.raises(TerminalError, match="timed out"):
            _ = told.value
        assert timedelta(hours=4) <= told.duration < timedelta(hours=4, minutes=1)
