"""The command line as a newcomer meets it: help, errors, exit codes, JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from command_line import run
from gated_lpi.cli import app
from gated_lpi.version import __version__
from tiny_text import save_checkpoint, save_facts, tiny_tokenizer
from tiny_types import tiny_of_type


def flat(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model") / "step-1", "Qwen3-MoE")


@pytest.fixture
def facts(tmp_path):
    path = tmp_path / "facts.jsonl"
    pairs = [("The capital of France is", "Paris"), ("The sky is", "blue")]
    path.write_text("\n".join(json.dumps({"prompt": prompt, "target": target}) for prompt, target in pairs))
    return path


VERBS = [command.name for command in app.registered_commands]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(monkeypatch, capsys, verb):
    code, out, _ = run(monkeypatch, capsys, verb, "--help")
    assert code == 0
    assert f"gated-lpi {verb}" in flat(out)
    assert "Example:" in out


@pytest.mark.parametrize("asked", ["--version", "-V"])
def test_the_version_is_printed(monkeypatch, capsys, asked):
    assert run(monkeypatch, capsys, asked) == (0, f"gated-lpi {__version__}\n", "")


def test_no_arguments_show_the_verbs(monkeypatch, capsys):
    _, out, err = run(monkeypatch, capsys)
    assert all(verb in out + err for verb in VERBS)


def test_attribute_writes_a_dataset(monkeypatch, capsys, tmp_path, checkpoint, facts):
    out_folder = tmp_path / "scores.zarr"
    options = ["--facts", facts, "--out", out_folder, "--keep", "prompts", "--json"]
    code, out, err = run(monkeypatch, capsys, "attribute", checkpoint, *options)
    assert code == 0, err
    printed = json.loads(out)
    scores = xr.open_zarr(out_folder, consolidated=False, chunks=None)
    assert printed["dims"]["unit"] == scores.sizes["unit"]
    assert printed["provenance"]["family"] == "Qwen3-MoE"
    assert scores["object"].values.tolist() == ["Paris", "blue"]


def test_attribute_does_not_overwrite(monkeypatch, capsys, tmp_path, checkpoint, facts):
    (tmp_path / "there").mkdir()
    code, _, err = run(monkeypatch, capsys, "attribute", checkpoint, "--facts", facts, "--out", tmp_path / "there")
    assert code == 1
    assert "not overwritten" in err


def test_attribute_says_what_it_skips_and_cannot_tell_apart(monkeypatch, capsys, tmp_path, checkpoint, facts):
    odd = [("The sun is", "nowhere"), ("A sky looks", "blue sky"), ("A sun looks", "yellow")]
    lines = [json.dumps({"prompt": prompt, "target": target}) for prompt, target in odd]
    facts.write_text("\n".join([facts.read_text(), *lines, "{", '{"prompt": 3}']))
    arguments = ("attribute", checkpoint, "--facts", facts, "--out", tmp_path / "scores.zarr", "--keep", "prompts")
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 1
    assert "line 6" in err
    code, _, err = run(monkeypatch, capsys, *arguments, "--on-error", "skip", "--separator", "auto")
    assert code == 0
    assert "3 facts are skipped" in err
    assert "'nowhere'" in err
    assert "share their first token" in err
    found = xr.open_zarr(tmp_path / "scores.zarr", consolidated=False)
    assert found["text"].values.tolist()[0] == "The capital of France is Paris"
    assert len(found.attrs["skipped"]) == 3


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--estimator", "nonesuch"),
        ("--templates", "some"),
        ("--memory", "much"),
        ("--tolerance", "-1"),
        ("--units", "neurons"),
        ("--on-error", "ignore"),
        ("--readout-eps", "nan"),
        ("--facts", "no-such-file.json"),
    ],
)
def test_what_can_be_refused_without_the_model_is_refused_before_it_is_loaded(
    monkeypatch, capsys, tmp_path, option, value
):
    code, _, err = run(monkeypatch, capsys, "attribute", "no/such/model", "--out", tmp_path / "x", option, value)
    assert code in (1, 2)
    assert value in err
    assert "no/such/model" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["a file", "a dead link", "below a file", "not ours"])
def test_a_place_that_cannot_be_written_to_is_found_before_the_model_is_loaded(monkeypatch, capsys, tmp_path, place):
    out = tmp_path / "out"
    if place == "a file":
        out.write_text("")
    elif place == "a dead link":
        out.symlink_to(tmp_path / "nowhere")
    elif place == "below a file":
        out.write_text("")
        out = out / "inside"
    else:
        out = Path("/proc/scores.zarr")
    code, _, err = run(monkeypatch, capsys, "attribute", "no/such/model", "--out", out)
    assert code == 1
    assert str(out) in err
    assert "no/such/model" not in err


def test_an_interrupted_attribute_says_that_nothing_was_kept(monkeypatch, capsys, tmp_path, checkpoint, facts):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gated_lpi.methods.attribute", interrupted)
    arguments = ("attribute", checkpoint, "--facts", facts, "--out", tmp_path / "scores" / "x.zarr")
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 130
    assert "none were kept" in err
    assert list((tmp_path / "scores").iterdir()) == []


def test_an_interrupted_run_says_what_is_kept(monkeypatch, capsys, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gated_lpi.runs.run_experiment", interrupted)
    code, _, err = run(monkeypatch, capsys, "demo", "--out", tmp_path / "run")
    assert code == 130
    assert "what was complete is kept, and the same command goes on" in flat(err)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["attribute", "./nowhere", "--out", "x"], 1, "no folder './nowhere'"),
        (["attribute", "CHECKPOINT", "--facts", "none.json", "--out", "x"], 1, "none.json"),
        (
            ["attribute", "CHECKPOINT", "--norm", "thawed", "--out", "x"],
            2,
            "'frozen' or 'recomputed' (given: 'thawed')",
        ),
        (["attribute", "CHECKPOINT", "--device-map", "atuo", "--out", "x"], 2, "expected one of auto, balanced"),
        (["run", "none.toml", "--out", "x"], 2, "no experiment file"),
        (["report", "."], 1, "holds no run.json"),
        (["metrics", "."], 1, "holds no run.json"),
        (["check", "./nowhere"], 1, "no folder './nowhere'"),
        (["attribute"], 2, "Missing argument"),
    ],
)
def test_errors_are_one_message_and_an_exit_code(monkeypatch, capsys, tmp_path, checkpoint, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    arguments = [checkpoint if a == "CHECKPOINT" else a for a in arguments]
    found, _, err = run(monkeypatch, capsys, *arguments)
    assert found == code
    assert message in flat(err)
    assert "Traceback" not in err


def test_check_describes_a_model_that_can_be_trusted(monkeypatch, capsys, checkpoint):
    code, out, _ = run(monkeypatch, capsys, "check", checkpoint, "--prompts", "7")
    assert code == 0
    assert "Qwen3-MoE" in out
    assert "128 routed" in flat(out)
    _, out, _ = run(monkeypatch, capsys, "check", checkpoint, "--json")
    found = json.loads(out)
    assert found["units"] == {"attention": 128, "dense": 48, "routed": 128}
    assert found["coverage"] == 1.0
    assert found["reconstruction"]["block"] < 1e-5


def test_families_are_listed(monkeypatch, capsys):
    _, out, _ = run(monkeypatch, capsys, "families", "--json")
    types = {one.pop("model_type"): one for one in json.loads(out)}
    assert types["olmoe"] == {"status": "attributed", "reason": "", "family": "OLMoE"}
    assert types["mamba"] == {"status": "attributed", "reason": "", "family": "Mamba"}
    assert types["rwkv"]["status"] == "refused"
    assert "RwkvFeedForward" in types["rwkv"]["reason"]
    code, out, _ = run(monkeypatch, capsys, "families")
    assert code == 0
    assert "deepseek_v3" in out


def test_check_refuses_with_the_reason(monkeypatch, capsys, tmp_path):
    tiny_of_type("modernbert-decoder").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    code, out, error = run(monkeypatch, capsys, "check", str(tmp_path / "model"), "--json")
    assert code == 1
    assert not out
    assert "between model.final_norm and decoder stands more than a number that multiplies" in flat(error)


def test_check_shows_the_row_that_was_read_off_a_model(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "model"
    tiny_of_type("cohere2").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    code, out, _ = run(monkeypatch, capsys, "check", str(folder))
    assert code == 0
    row = out.partition("the row that was proven:\n")[2].partition("note:")[0]
    assert 'name = "Cohere2"' in row
    own = tmp_path / "row.toml"
    own.write_text(row.replace('"Cohere2"', '"mine"'))
    _, out, _ = run(monkeypatch, capsys, "check", str(folder), "--family-row", str(own), "--json")
    assert json.loads(out)["family"] == "mine"
    own.write_text(row.replace("logit_scale", "vocab_size"))
    code, out, error = run(monkeypatch, capsys, "check", str(folder), "--family-row", str(own))
    assert code == 1
    assert not out
    assert 'logit_multiplier_attribute = "vocab_size"' in error.partition("the row that was tried")[2]
    assert "the logits of this Cohere2 model" in error


@pytest.mark.parametrize("verb", ["attribute", "ablate", "compare", "prune"])
def test_a_row_of_ones_own_goes_to_every_verb_that_loads_a_model(monkeypatch, capsys, tmp_path, verb):
    folder, row = save_checkpoint(tmp_path / "model"), tmp_path / "mine.toml"
    facts = save_facts(tmp_path / "facts")
    what = ["--units", "L0 E1 n1", "--controls", "none"] if verb == "ablate" else ["--out", str(tmp_path / "out")]
    of = [str(facts)] if verb == "compare" else ["--facts", str(facts)]
    given = [verb, str(folder), *of, *what, "--family-row", str(row)]
    row.write_text('norm = "layer"')  # of another family: what the proof says shows that it was tried
    code, _, error = run(monkeypatch, capsys, *given)
    assert code == 1
    assert "of this mine model is not what its units and biases add up to" in error
    row.write_text("norms = 1")
    code, _, error = run(monkeypatch, capsys, *given)
    assert code != 0
    assert "has the key 'norms', which no row has" in error


def test_a_tokenizer_that_lives_elsewhere_is_named(monkeypatch, capsys, tmp_path, facts):
    folder, apart = save_checkpoint(tmp_path / "model"), tmp_path / "apart"
    apart.mkdir()
    for file in folder.glob("tokenizer*"):
        file.rename(apart / file.name)
    asked = ["attribute", folder, "--facts", facts, "--out", tmp_path / "scores", "--json"]
    code, _, error = run(monkeypatch, capsys, *asked)
    assert code == 1
    assert "--tokenizer" in error
    code, out, error = run(monkeypatch, capsys, *asked, "--tokenizer", apart)
    assert code == 0, error
    assert json.loads(out)["provenance"]["tokenizer_source"] == str(apart)
    code, _, error = run(monkeypatch, capsys, "check", folder, "--tokenizer", tmp_path)
    assert code == 1
    assert "holds none" in error


def test_the_installed_command_works():
    shown = subprocess.run(
        [sys.executable, "-m", "gated_lpi", "--help"], check=True, capture_output=True, text=True
    ).stdout
    assert "demo" in shown


def test_attribute_takes_a_gate_and_the_routing_of_every_position(monkeypatch, capsys, tmp_path, checkpoint, facts):
    out = tmp_path / "scores.zarr"
    asked = ["--facts", facts, "--out", out, "--gate", "open", "--routing", "all", "--units", "experts"]
    code, _, err = run(monkeypatch, capsys, "attribute", checkpoint, *asked)
    assert code == 0, err
    scores = xr.open_zarr(out, consolidated=False, chunks=None)
    assert (scores.attrs["gate"], scores.attrs["routing"]) == ("open", "all")
    assert scores["router_logits"].dims == ("prompt", "position", "expert_unit")
    assert (scores["expert_lpi"].values != 0).all()


@pytest.mark.parametrize(
    ("option", "told"), [(("--gate", "uniform"), "gate='uniform' was given"), (("--routing", "all"), "routing='all'")]
)
def test_attribute_refuses_what_is_for_routed_experts_of_a_dense_model(
    monkeypatch, capsys, tmp_path, facts, option, told
):
    dense = save_checkpoint(tmp_path / "dense", "Qwen3")
    code, _, err = run(
        monkeypatch, capsys, "attribute", dense, "--facts", facts, "--out", tmp_path / "scores.zarr", *option
    )
    assert code == 2
    assert told in flat(err)
    assert "Qwen3 model has none" in flat(err)
    assert not (tmp_path / "scores.zarr").exists()


@pytest.mark.parametrize(("option", "told"), [(("--gate", "shut"), "gate: "), (("--routing", "first"), "routing: ")])
def test_attribute_names_what_a_gate_and_routing_may_be(monkeypatch, capsys, tmp_path, facts, option, told):
    code, _, err = run(
        monkeypatch, capsys, "attribute", tmp_path / "none", "--facts", facts, "--out", tmp_path / "s.zarr", *option
    )
    assert code == 2
    assert told in flat(err)
    assert option[1] in flat(err)


@pytest.mark.parametrize(
    ("method", "options", "variable"),
    [
        ("lpi", ["--estimator", "exact"], "lpi"),
        ("lpi", ["--answer", "all", "--tolerance", "0.01"], "lpi"),
        ("grad_x_act", ["--at", "last", "--answer", "all"], "grad_x_act"),
        ("integrated_gradients", ["--points", "2"], "integrated_gradients"),
        ("direct_effect", ["--norm", "recomputed", "--gate", "open"], "direct_effect"),
        ("true_effect", ["--sample", "2", "--how", "mean", "--sample-seed", "3"], "true_effect"),
    ],
)
def test_attribute_by_every_method(monkeypatch, capsys, tmp_path, checkpoint, facts, method, options, variable):
    where = ["--facts", facts, "--out", tmp_path / "scores.zarr", "--json"]
    code, out, err = run(monkeypatch, capsys, "attribute", checkpoint, *where, "--method", method, *options)
    assert code == 0, err
    scores = xr.open_zarr(tmp_path / "scores.zarr", consolidated=False, chunks=None)
    assert scores[variable].dims == ("relation", "unit")
    provenance = json.loads(out)["provenance"]
    assert provenance["method"] == method
    for name, value in zip(options[::2], options[1::2], strict=True):
        assert str(provenance[name[2:].replace("-", "_")]) == value


def test_attribute_by_rollout(monkeypatch, capsys, tmp_path, checkpoint):
    facts = tmp_path / "facts.jsonl"
    fact = {"relation": "capital", "subject": "France", "object": "Paris", "template": "The capital of {} is"}
    facts.write_text(json.dumps(fact))
    where = ["--facts", facts, "--out", tmp_path / "scores.zarr"]
    code, _, err = run(monkeypatch, capsys, "attribute", checkpoint, *where, "--method", "rollout")
    assert code == 0, err
    scores = xr.open_zarr(tmp_path / "scores.zarr", consolidated=False, chunks=None)
    assert scores["rollout"].dims == ("relation", "head_unit")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--method", "gradients"], "method 'gradients' was given; expected one of lpi, grad_x_act"),
        (["--at", "last"], "at='last' was given, which lpi does not have"),
        (["--method", "grad_x_act", "--tolerance", "0.001"], "which grad_x_act does not have (its options: target, "),
        (["--method", "rollout", "--foil", "best"], "which rollout does not have (its options: none)"),
        (["--method", "true_effect", "--points", "3"], "choose a method that has it: integrated_gradients"),
        (["--method", "true_effect", "--sample", "0"], "sample"),
    ],
)
def test_options_of_other_methods_are_refused(monkeypatch, capsys, tmp_path, checkpoint, facts, options, told):
    where = ["--facts", facts, "--out", tmp_path / "scores.zarr"]
    code, _, err = run(monkeypatch, capsys, "attribute", checkpoint, *where, *options)
    assert code != 0
    assert told in flat(err)
    assert not (tmp_path / "scores.zarr").exists()
