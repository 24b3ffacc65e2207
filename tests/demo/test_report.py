from html.parser import HTMLParser

import pytest

from edgetiny.demo.report import Step, Story, render
from edgetiny.svg import Series

_VOID = {"meta", "br"}


def make_story(bits_per_byte=1.5, sample="<b>not markup</b>"):
    step = Step(
        name="base",
        what="trained",
        parameters=1234,
        size_bytes=5_000_000,
        bits_per_byte=bits_per_byte,
        seconds=75.0,
        sample=sample,
    )
    return Story(
        text_files=["a.txt"],
        text_bytes=12_000_000,
        held_out_bytes=240_000,
        xz_bits_per_byte=1.9,
        prompt="The",
        steps=[step],
        losses=[Series("base", [(1, 3.0), (2, 2.5)])],
        coverage=Series("coverage", [(100, 0.5), (200, 0.9)]),
        tokenizer={"rows": 200},
        verification=[{"check": "logits", "measured": 0.001, "passed": True}],
        speed=[{"batch": 1, "tok_s_summed": 2000.0}],
        machine={"cpu": "x"},
        commands=["edgetiny init --out a"],
        seconds=300.0,
    )


class Checker(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_whole_page_that_needs_nothing_else():
    checker = Checker()
    page = render(make_story())
    checker.feed(page)
    assert checker.open == []
    assert checker.links == []
    assert "http" not in page


def test_generated_text_is_shown_not_interpreted():
    assert "<b>not markup" not in render(make_story())
    assert "&lt;b&gt;not markup" in render(make_story())


@pytest.mark.parametrize(("bits_per_byte", "beats"), [(1.5, True), (2.5, False)])
def test_the_report_says_whether_the_model_beats_xz(bits_per_byte, beats):
    story = make_story(bits_per_byte)
    assert story.beats_xz is beats
    assert ("does <strong>not</strong> beat xz" in render(story)) is not beats
