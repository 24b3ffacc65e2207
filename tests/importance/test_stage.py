import json

import pytest

from edgetiny.config.model import ImportanceConfig
from edgetiny.data import Shards
from edgetiny.errors import ConfigError
from edgetiny.importance.skips import skip_losses
from edgetiny.importance.stage import run
from edgetiny.importance.text import text_windows


def test_tables_are_what_is_measured_and_are_written(make_checkpoint, data, tmp_path):
    source = make_checkpoint(num_hidden_layers=4, num_key_value_heads=2)
    out, report = tmp_path / "importance.json", tmp_path / "importance.html"
    settings = {"source": source.path, "data": data, "calibration_tokens": 100}
    config = ImportanceConfig(layers=True, neurons=True, out=out, report=report, **settings)
    found = run(config)
    windows = text_windows(Shards.open(data).valid, 100, 64)
    wanted = skip_losses(source.config, source.state_dict(), range(4), windows, (1, 2, 3))
    assert found.loss == wanted.whole
    for n, losses in wanted.without.items():
        column = [row[f"loss_without_{n}"] for row in found.layers]
        assert column == losses + [None] * (n - 1)
    assert {row["method"] for row in found.neurons} == {"l1", "l2", "activation", "taylor"}
    assert all(0.5 <= row["share_of_best_half"] <= 1 for row in found.neurons)
    assert json.loads(out.read_text()) == found.document()
    assert report.read_text().count("<polyline") == 3
    with pytest.raises(ConfigError, match="exists"):
        run(config)


def test_nothing_to_score_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="give --layers, --neurons or both"):
        ImportanceConfig(source=tmp_path, data=tmp_path)
    with pytest.raises(ConfigError, match="--overwrite replaces"):
        ImportanceConfig(source=tmp_path, data=tmp_path, layers=True, overwrite=True)


def test_a_model_of_one_layer_has_a_page_that_says_why_it_has_no_chart(
    make_checkpoint, data, tmp_path
):
    source, report = make_checkpoint(num_hidden_layers=1), tmp_path / "importance.html"
    settings = {"source": source.path, "data": data, "calibration_tokens": 100}
    found = run(ImportanceConfig(layers=True, report=report, **settings))
    assert [row["layer"] for row in found.layers] == [0]
    page = report.read_text()
    assert "A model of one layer has no chart" in page
    assert "<polyline" not in page


def test_progress_is_shown_of_all_that_takes_long(make_checkpoint, data, counting_reporter):
    reporter, source = counting_reporter, make_checkpoint(num_hidden_layers=3)
    settings = {"source": source.path, "data": data, "calibration_tokens": 100}
    run(ImportanceConfig(layers=True, neurons=True, **settings), reporter)
    methods = {f"scoring neurons by {name}" for name in ("l1", "l2", "activation", "taylor")}
    assert reporter.tasks.keys() == methods | {"skipping layers", "turns of layers"}
    assert all(done == total > 0 for done, total in reporter.tasks.values())


def test_equal_scores_and_none_at_all_give_the_better_half_half(make_checkpoint, data, tmp_path):
    def edit(tensors):
        for name, tensor in tensors.items():
            if "embed_tokens" in name:
                continue
            if "norm" in name:
                tensor.fill_(1)
            elif ".layers.0." in name:
                tensor.zero_()
            else:
                tensor.fill_(0.1)

    source = make_checkpoint(
        intermediate_size=45, num_attention_heads=3, num_key_value_heads=3, edit=edit
    )
    settings = {"source": source.path, "data": data, "calibration_tokens": 100}
    found = run(ImportanceConfig(neurons=True, out=tmp_path / "importance.json", **settings))
    for row in found.neurons:
        if row["axis"] != "hidden":
            assert row["share_of_best_half"] == pytest.approx(0.5, abs=1e-6)
