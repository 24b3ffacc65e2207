import calendar
import string

from edgetiny.tokenizer.chat_template import template_texts

CHAT = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
{%- if tools %}{{ tools | tojson(indent=2) }} is a tool{% endif %}"""


def test_conversations_are_rendered_and_literals_listed() -> None:
    texts = list(template_texts(CHAT, {}))
    assert "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n" in texts
    assert any(text.startswith("<|im_start|>system\n") for text in texts)
    assert " is a tool" in texts


def test_what_a_template_refuses_is_passed_over() -> None:
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    no_three = "{% if messages | length > 2 %}{{ 1 / 0 }}{% endif %}"
    texts = list(
        template_texts(no_system + no_three + "said {{ eos_token }}", {"eos_token": "</s>"})
    )
    assert set(texts) == {"system", "no", "said ", "said </s>"}


def test_dates_loop_controls_and_marks_of_transformers_are_known() -> None:
    template = (
        "{{ strftime_now('%Y') }}{% for message in messages %}{% if loop.index > 1 %}{% break %}"
        "{% endif %}{% generation %}x{{ message.role }}{% endgeneration %}{% endfor %}"
    )
    assert any(text.endswith("xuser") for text in template_texts(template, {}))


def test_the_date_is_written_on_the_same_days_whenever_it_is_asked_for() -> None:
    template = "{{ strftime_now('%A|%a|%d|%B|%b|%Y|%I:%M %p') }}|{{ messages[0].content }}"
    dates = [text.split("|") for text in template_texts(template, {}) if text.count("|") == 7]
    written = [set(column) for column in zip(*dates, strict=True)]
    assert written[0] == set(calendar.day_name)
    assert written[1] == set(calendar.day_abbr)
    assert written[2] == {f"{day:02}" for day in range(1, 32)}
    assert written[3] == set(calendar.month_name) - {""}
    assert written[4] == set(calendar.month_abbr) - {""}
    assert written[5] == {str(year) for year in range(2024, 2036)}
    assert {text[-2:] for text in written[6]} == {"AM", "PM"}
    assert set(string.digits) <= set("".join(written[6]))
    assert list(template_texts(template, {})) == list(template_texts(template, {}))


def test_templates_that_are_none_give_nothing() -> None:
    assert list(template_texts("{% for %}", {})) == []


def test_a_template_cannot_reach_out() -> None:
    texts = list(template_texts("{{ messages.__class__.__mro__ }}", {}))
    assert not any("object" in text for text in texts)
