"""One HTML file that says what the demo did, with every figure it measured."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgetiny.demo.plan import SAMPLE_TEMPERATURE
from edgetiny.page import facts_table, page, table
from edgetiny.svg import Series, line_chart


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One row of the story: a model and what was measured of it."""

    name: str
    what: str
    parameters: int
    size_bytes: int
    bits_per_byte: float
    seconds: float
    sample: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """Everything that the report shows.

    losses: per trained model, (tokens seen, training loss in bits per byte of text).
    coverage: (rows of the vocabulary, share of the token occurrences that they cover).
    speed: one mapping per benchmark row, as shown on the terminal.
    verification: one mapping per check of the artefact against the checkpoint.
    """

    text_files: Sequence[str]
    text_bytes: int
    held_out_bytes: int
    xz_bits_per_byte: float
    prompt: str
    steps: Sequence[Step]
    losses: Sequence[Series]
    coverage: Series
    tokenizer: Mapping[str, Any]
    verification: Sequence[Mapping[str, Any]]
    speed: Sequence[Mapping[str, Any]]
    machine: Mapping[str, Any]
    commands: Sequence[str]
    seconds: float

    @property
    def beats_xz(self) -> bool:
        """Whether the exported model predicts the held-out text better than `xz -9` packs it."""
        return self.steps[-1].bits_per_byte < self.xz_bits_per_byte


def render(story: Story) -> str:
    """Return the whole report as one HTML document without outside references."""
    body = [
        _opening(story),
        "<h2>What was done</h2>",
        _steps_table(story),
        "<h2>Learning</h2>",
        _learning(story),
        "<h2>Tokenizer</h2>",
        _tokenizer(story),
        "<h2>Speed</h2>",
        _speed(story),
        "<h2>Is the exported model the trained one?</h2>",
        "<p>The artefact ran in its own runtime against the checkpoint. An export that fails"
        " this leaves nothing behind.</p>",
        table(story.verification),
        "<h2>What each model writes</h2>",
        _samples(story),
        "<h2>Do it again</h2>",
        "<p>Each stage is a command from folder to folder. These are the ones that ran:</p>",
        f"<pre>{html.escape(chr(10).join(story.commands))}</pre>",
        facts_table(story.machine),
    ]
    return page("edgetiny demo", body)


def _opening(story: Story) -> str:
    last = story.steps[-1]
    verdict = (
        f"It predicts text it has never seen at {last.bits_per_byte:.3f} bits per byte;"
        f" <code>xz -9</code> packs the same text at {story.xz_bits_per_byte:.3f}."
    )
    if not story.beats_xz:
        verdict += " The model does <strong>not</strong> beat xz: it needs more training."
    speed = ""
    if story.speed:
        best = max(row["tok_s_summed"] for row in story.speed)
        speed = f", up to {best:,.0f} tok/s on this machine"
    size = _bytes(last.size_bytes)
    made = f"{last.parameters:,} parameters{speed}, made in {_duration(story.seconds)}."
    return (
        f"<h1>From {_bytes(story.text_bytes)} of text to a model of {size}</h1>"
        f"<p class='lead'>{made} {verdict}</p>"
        f"<p>Text: {html.escape(', '.join(story.text_files))}; {story.text_bytes:,} bytes in all,"
        f" of which {story.held_out_bytes:,} bytes, whole works, were held out and never trained"
        " on.</p>"
    )


def _steps_table(story: Story) -> str:
    widest = max(step.size_bytes for step in story.steps)
    worst = max(story.xz_bits_per_byte, *(step.bits_per_byte for step in story.steps))
    rows = [
        f"<tr><td>{html.escape(step.name)}<br><small>{html.escape(step.what)}</small></td>"
        f"<td class='n'>{step.parameters:,}</td>"
        f"<td class='n'>{_bytes(step.size_bytes)}{_bar(step.size_bytes / widest)}</td>"
        f"<td class='n'>{step.bits_per_byte:.3f}{_bar(step.bits_per_byte / worst)}</td>"
        f"<td class='n'>{_duration(step.seconds)}</td></tr>"
        for step in story.steps
    ]
    rows.append(
        "<tr class='peer'><td><code>xz -9</code> on the held-out text</td><td></td><td></td>"
        f"<td class='n'>{story.xz_bits_per_byte:.3f}{_bar(story.xz_bits_per_byte / worst)}</td>"
        "<td></td></tr>"
    )
    head = "".join(
        f"<th>{name}</th>"
        for name in ("step", "parameters", "weights on disk", "held-out bits per byte", "time")
    )
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _learning(story: Story) -> str:
    chart = line_chart(story.losses, "tokens seen", "training loss, bits per byte")
    return (
        "<p>Training loss in bits per byte of text: losses per token of models with different"
        f" vocabularies cannot be compared, these can.</p>{chart}"
    )


def _tokenizer(story: Story) -> str:
    chart = line_chart([story.coverage], "pieces kept", "share of token occurrences")
    facts = facts_table(story.tokenizer)
    return (
        "<p>How much of the text the most frequent pieces cover (the paper's Figure 2). The"
        f" merges that build a kept piece are kept with it.</p>{chart}{facts}"
    )


def _speed(story: Story) -> str:
    if not story.speed:
        return "<p>Not measured.</p>"
    return (
        "<p>The paper's protocol: a prompt of 2 tokens, then greedy decoding without a stop"
        " token. The bound is what this machine's memory and arithmetic, measured in the same"
        f" run, allow for the bytes and operations of a step.</p>{table(story.speed)}"
    )


def _samples(story: Story) -> str:
    parts = [
        f"<p>Prompt: <code>{html.escape(story.prompt)}</code>. Temperature"
        f" {SAMPLE_TEMPERATURE:g}, one seed for all, unedited.</p>"
    ]
    for step in story.steps:
        parts.append(f"<h3>{html.escape(step.name)}</h3><pre>{html.escape(step.sample)}</pre>")
    return "".join(parts)


def _bar(share: float) -> str:
    return f"<span class='bar'><span style='width:{100 * share:.1f}%'></span></span>"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
