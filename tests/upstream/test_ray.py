"""`ppcls_ext.upstream.ray`."""

from __future__ import annotations

import signal
import socket

import pytest

from ppcls_ext.upstream.ray import ended_by_sigterm, why_unreachable


def test_an_address_is_looked_at_where_it_is_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert why_unreachable(f"127.0.0.1:{port}") is None
        assert why_unreachable(f"ray://127.0.0.1:{port}") is None
    assert "refused" in str(why_unreachable(f"127.0.0.1:{port}"))
    assert why_unreachable("127.0.0.1:99999")
    assert why_unreachable("auto") is None


def test_sigterm_is_the_end_and_its_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, ended_by_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
