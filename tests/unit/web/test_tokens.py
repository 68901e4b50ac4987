"""The tokens file: what it may say, and that it is read again."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from structlog.testing import CapturingLogger

from awakeables.telemetry import events
from awakeables.web import tokens as module
from awakeables.web.tokenfile import TokensRefused, parse_tokens
from awakeables.web.tokens import CHECK_INTERVAL_S, Tokens


def entry(name: str, token: str, *scopes: str) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'["{name}"]\nsha256 = "{digest}"\nscopes = {list(scopes)}\n'


ONE = entry("shop", "t-1", "call", "read")
DIGEST = hashlib.sha256(b"t-1").hexdigest()


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def now_ms(self) -> int:
        return round(self.now_s * 1000)

    def monotonic(self) -> float:
        return self.now_s


class Watched:
    """Tokens of a file, its clock, its board, and what was logged."""

    def __init__(self, path: Path, content: str = ONE) -> None:
        self.path = path
        self.write(content)
        self.clock = Hands()
        self.problems: dict[str, str] = {}
        self.tokens = Tokens(path, clock=self.clock, problems=self.problems)

    def write(self, content: str) -> None:
        """Replace the file, as careful people and mounted secrets do."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(content)
        fresh.chmod(0o600)
        fresh.replace(self.path)

    def knows(self, token: str) -> bool:
        """Is the token known, a second later?"""
        self.clock.now_s += CHECK_INTERVAL_S
        self.tokens.refresh()
        return self.tokens.holder(token.encode()) is not None


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "tokens.toml")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The events that were logged."""
    logger = CapturingLogger()
    bound = structlog.wrap_logger(logger, processors=[], wrapper_class=structlog.BoundLogger)
    monkeypatch.setattr(module, "log", bound)
    return lambda: [call.kwargs["event"] for call in logger.calls]


# ── what it may say ─────────────────────────────────────────────────────────────────────────


def test_a_token_has_a_name_a_digest_and_scopes() -> None:
    [shop, operator] = parse_tokens((ONE + entry("operator", "t-2", "operate")).encode())
    assert shop.name == "shop"
    assert shop.scopes == {"call", "read"}
    assert shop.digests == (hashlib.sha256(b"t-1").digest(),)
    assert operator.scopes == {"operate"}


def test_case_o5_a_scope_can_be_for_the_calls_of_one_service() -> None:
    [shop] = parse_tokens(entry("shop", "t-1", "call:orders").encode())
    assert shop.may("call", "orders")
    assert not shop.may("call", "refunds")
    assert not shop.may("call")
    assert not shop.may("read")
    assert shop.calls


def test_case_o5_the_metrics_have_a_scope_of_their_own_which_read_includes() -> None:
    [scraper, reader] = parse_tokens((entry("a", "t-1", "metrics") + entry("b", "t-2", "read")).encode())
    assert scraper.may("metrics")
    assert not scraper.may("read")
    assert reader.may("metrics")


def test_case_o5_a_name_can_have_two_tokens_while_one_takes_over_from_the_other() -> None:
    digests = [hashlib.sha256(token).hexdigest() for token in (b"t-1", b"t-2")]
    [shop] = parse_tokens(f"[shop]\nsha256 = {digests}\nscopes = ['call']".encode())
    assert [digest.hex() for digest in shop.digests] == digests


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it has no tokens"),
        ("[shop", "it is not TOML: Expected"),
        ("\n\n[shop]\nsha256 = x", "it is not TOML.*line 4"),
        (ONE + ONE, "it is not TOML"),
        ('sha256 = "x"', r"\[sha256\] is not a token: Expected `object`"),
        ('[shop]\ntoken = "t-1"\nscopes = ["call"]', r"\[shop\] .* unknown field `token`.*sha256 \(64 hex"),
        ('[shop]\nscopes = ["call"]', r"\[shop\] .* missing required field `sha256`"),
        ('[shop]\nsha256 = "t-1"\nscopes = ["call"]', r"\[shop\] .*`\$\.sha256`"),
        (f'[shop]\nsha256 = "{DIGEST}\\n"\nscopes = ["call"]', r"\[shop\] .*`\$\.sha256`"),
        (f'[shop]\nsha256 = "{DIGEST}"', r"\[shop\] .* missing required field `scopes`.*a list of call"),
        (f'[shop]\nsha256 = "{DIGEST}"\nscopes = []', r"\[shop\] .*`\$\.scopes`"),
        (f'[shop]\nsha256 = "{DIGEST}"\nscopes = "call"', r"\[shop\] .*`\$\.scopes`"),
        (entry("shop", "t-1", "cal"), r"\[shop\] .*`\$\.scopes\[0\]`.* of call, complete, .*, call:SERVICE"),
        (entry("shop", "t-1", "read", "calls"), r"`\$\.scopes\[1\]`"),
        (entry("shop", "t-1", "call:"), r"`\$\.scopes\[0\]`"),
        (entry("shop", "t-1", "call:*"), r"`\$\.scopes\[0\]`"),
        (entry("shop", "t-1", "call: orders"), r"`\$\.scopes\[0\]`"),
        (entry("shop", "t-1", "call:orders\n"), r"`\$\.scopes\[0\]`"),
        (entry("shop", "t-1", "read:orders"), r"`\$\.scopes\[0\]`"),
        ('[shop]\nsha256 = []\nscopes = ["call"]', r"\[shop\] .*`\$\.sha256`"),
        (f'[shop]\nsha256 = ["{DIGEST}", "{DIGEST}"]\nscopes = ["call"]', "have the same token"),
        (f'[shop]\nsha256 = "{DIGEST}"\nscopes = [["call"]]', r"`\$\.scopes\[0\]`"),
        (f'[shop]\nsha256 = "{DIGEST}"\nscope = ["call"]', "unknown field `scope`"),
        (entry("shop", "t-1", "call") + entry("other", "t-1", "read"), "the same token"),
    ],
)
def test_what_is_wrong_or_ambiguous_is_refused_by_its_line_or_entry(content: str, said: str) -> None:
    with pytest.raises(TokensRefused, match=said):
        parse_tokens(content.encode())


@pytest.mark.parametrize("name", ["", "loopback", "network", r"a\nb", r"\u001b[2J", r"\u202ea", "x" * 65])
def test_case_o6_a_name_that_could_be_taken_for_something_else_is_refused(name: str) -> None:
    with pytest.raises(TokensRefused, match="can't be a token's name") as refused:
        parse_tokens(entry(name, "t-1", "call").encode())
    assert str(refused.value).isprintable()


def test_the_example_of_the_docs_is_one_that_is_taken() -> None:
    document = Path(__file__).parents[3] / "docs/security.md"
    [example] = re.findall(r"```toml\n(\[orders-frontend.*?)```", document.read_text(), re.DOTALL)
    [holder] = parse_tokens(example.encode())
    assert holder.scopes == {"call:orders"}


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(TokensRefused, match="it is not TOML"):
        parse_tokens(b"\xff")


def test_a_refusal_never_shows_a_token() -> None:
    with pytest.raises(TokensRefused) as refused:
        parse_tokens(b'[shop]\ntoken = "s3cret"\nsha256 = "s3cret"\nscopes = ["call"]')
    assert "s3cret" not in str(refused.value)


# ── whose it is ─────────────────────────────────────────────────────────────────────────────


def test_a_token_is_known_by_its_digest(watched: Watched) -> None:
    holder = watched.tokens.holder(b"t-1")
    assert holder is not None
    assert holder.name == "shop"
    for wrong in (b"t-2", b"", b"t-1 ", DIGEST.encode()):
        assert watched.tokens.holder(wrong) is None


def test_every_entry_is_compared_in_constant_time_whichever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ONE + entry("b", "t-2", "read") + entry("c", "t-3", "read")
    watched = Watched(tmp_path / "tokens.toml", content)
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return digest_compare(a, b)

    digest_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in (b"t-1", b"t-3", b"none"):
        compared.clear()
        watched.tokens.holder(token)
        assert len(compared) == 3
        assert {a for a, _ in compared} == {hashlib.sha256(token).digest()}


# ── read again ──────────────────────────────────────────────────────────────────────────────


def test_a_changed_file_is_read_again_within_a_second(
    watched: Watched, logged: Callable[[], list[str]]
) -> None:
    watched.write(entry("shop", "t-2", "call"))
    watched.tokens.refresh()
    assert watched.tokens.holder(b"t-1") is not None, "it was looked at less than a second ago"
    assert watched.knows("t-2")
    assert not watched.knows("t-1")
    assert logged() == [events.TOKENS_READ]


def test_a_file_of_the_same_size_and_time_is_known_as_another(watched: Watched) -> None:
    before = watched.path.stat()
    watched.write(entry("shop", "t-2", "call", "read"))
    os.utime(watched.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watched.path.stat().st_size == before.st_size
    assert watched.knows("t-2")


def test_a_file_that_has_not_changed_is_not_read_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "parse_tokens", pytest.fail)
    assert watched.knows("t-1")


@pytest.mark.parametrize("wrong", ["", "[shop", entry("shop", "t-2", "cal")])
def test_a_broken_file_leaves_the_tokens_and_is_reported_until_it_is_fixed(
    watched: Watched, logged: Callable[[], list[str]], wrong: str
) -> None:
    watched.write(wrong)
    for _ in range(3):
        assert watched.knows("t-1")
        assert str(watched.path) in watched.problems["tokens"]
    assert logged() == [events.TOKENS_REFUSED]
    watched.write(entry("shop", "t-2", "call"))
    assert watched.knows("t-2")
    assert watched.problems == {}


def test_a_missing_file_leaves_the_tokens_and_is_reported_until_it_is_back(watched: Watched) -> None:
    aside = watched.path.rename(watched.path.with_suffix(".aside"))
    assert watched.knows("t-1")
    assert "No such file" in watched.problems["tokens"]
    aside.rename(watched.path)
    assert watched.knows("t-1")
    assert watched.problems == {}


def test_at_the_start_a_file_that_can_not_be_taken_is_refused(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        Tokens(path, clock=Hands(), problems={})

    with pytest.raises(TokensRefused, match=r"missing\.toml can't be read: No such file"):
        read(tmp_path / "missing.toml")
    with pytest.raises(TokensRefused, match="is not a file"):
        read(tmp_path)
    (tmp_path / "broken.toml").write_text("[")
    (tmp_path / "large.toml").write_bytes(bytes(2_000_000))
    with pytest.raises(TokensRefused, match=r"broken\.toml is invalid: it is not TOML"):
        read(tmp_path / "broken.toml")
    with pytest.raises(TokensRefused, match="that is not a tokens file"):
        read(tmp_path / "large.toml")


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o660, 1), (0o602, 1)])
def test_a_file_that_others_may_read_or_write_is_warned_of(
    watched: Watched, logged: Callable[[], list[str]], mode: int, warned: int
) -> None:
    watched.path.chmod(mode)
    Tokens(watched.path, clock=Hands(), problems={})
    assert logged() == [events.TOKENS_LOOSE] * warned
