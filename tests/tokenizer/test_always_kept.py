import shutil
from datetime import date, timedelta
from pathlib import Path

from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.always_kept import always_kept


def test_tokens_of_every_date_that_a_template_writes_stay(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_tokenizer, tmp_path / "tokenizer")
    form = "Today is %A, %d %B %Y."
    (folder / "chat_template.jinja").write_text(f"{{{{ strftime_now({form!r}) }}}}")
    tokenizer = Tokenizer.open(folder)
    kept = always_kept(tokenizer)
    for days in range(0, 12 * 365, 37):
        day = date(2024, 1, 1) + timedelta(days=days)
        assert kept.issuperset(tokenizer.encode(day.strftime(form))), day
