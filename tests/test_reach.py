"""Whether a hub answers is known within seconds, and a hub that does not is not asked again and again."""

import time

import pytest
from silent import mute, refusing

from qwen_ner import reach


@pytest.mark.parametrize("dead", [refusing, mute])
def test_a_hub_that_does_not_answer(dead):
    with dead() as endpoint:
        started = time.monotonic()
        reason = reach.silence(endpoint)
        assert reason
        assert time.monotonic() - started < reach.PATIENCE + 3
        started = time.monotonic()
        assert reach.silence(endpoint) == reason, "and it is remembered"
        assert time.monotonic() - started < 1


def test_whatever_a_hub_says_is_an_answer(hub):
    hub.refuse.append(("HEAD /", 503))
    assert reach.silence(hub.url) is None
    assert reach.silence(hub.url) is None
    assert [request.split()[0] for request in hub.log] == ["HEAD"] * 2


def test_a_hub_that_is_back_is_asked_again(hub, monkeypatch):
    monkeypatch.setitem(reach._silent, hub.url, (time.monotonic() - 1, "down"))
    assert reach.silence(hub.url) == "down"
    monkeypatch.setitem(reach._silent, hub.url, (time.monotonic() - reach.REMEMBERED, "down"))
    assert reach.silence(hub.url) is None


def test_an_address_without_a_scheme_is_told():
    assert reach.silence("nowhere")
