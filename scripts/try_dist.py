"""Try an installed gated-lpi, outside of its repository: python -I try_dist.py FILES

1. It is the installed one, with every file of the package inside that FILES names, one a line.
2. The command line answers.
3. A small mixture of experts is made, attributed by every unit, trained for a few steps, and reported.
4. The explorer shows that run.

Exits with 1 and a line if something is missing. `make try-dist` installs the wheel into an environment of its own and
calls this.
"""

import subprocess
import sys
import sysconfig
import tempfile
import threading
import urllib.request
from importlib.resources import files
from pathlib import Path

import numpy as np

import gated_lpi
from gated_lpi.experiments import Experiment, preset, presets
from gated_lpi.studies import studies

TRAINING = {
    "steps": 4,
    "checkpoints": 3,
    "batch_size": 4,
    "warmup_steps": 1,
    "size": {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "experts": 4, "expert_width": 8, "vocab_size": 512},
}
WAIT = 120  # seconds for the explorer to begin


def need(condition: object, what: str) -> None:
    """End with a line if something is not as it is to be."""
    if not condition:
        sys.exit(f"not as it is to be: {what}")


def inside(names: list[str]) -> None:
    """These files are in the wheel, presets, facts and studies are found there, and the wheel is what is run."""
    home = Path(gated_lpi.__file__).resolve()
    need(home.is_relative_to(Path(sysconfig.get_paths()["purelib"]).resolve()), f"gated_lpi is at {home}")
    need(names, "no file was named that the wheel is to have")
    for name in names:
        need(files("gated_lpi").joinpath(name).is_file(), f"{name} is not in the wheel")
    need({"demo", "paper", "pythia-160m"} <= set(presets()), f"presets are {presets()}")
    need(preset("demo").arms, "the preset demo has no arms")
    need("twins" in studies(), "the study twins is not in the wheel")
    need(len(gated_lpi.load_facts("builtin").relations) > 10, "the built-in facts are not in the wheel")


def command_line() -> None:
    """`gated-lpi` is installed, and lists families without a model."""
    program = Path(sysconfig.get_paths()["scripts"]) / "gated-lpi"
    for words in (["--help"], ["families"], ["run", "--preset", "demo", "--plan"]):
        done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        need(done.returncode == 0, f"gated-lpi {' '.join(words)}: {done.stderr[-500:]}")


def attributed(folder: Path) -> None:
    """A run trains, attributes, measures and reports; its last checkpoint is attributed on its own, too."""
    from gated_lpi.runs import run_experiment

    experiment = Experiment.model_validate(
        {
            "name": "tried",
            "facts": {"source": "people:n=4"},
            "training": TRAINING,
            "metrics": {"draws": 5},
            "ablation": {"random_draws": 1, "heads": [1]},
            "arms": [{"name": "moe", "train": "moe"}],
        }
    )
    run = run_experiment(experiment, folder)
    need(run.scores("moe").sizes["checkpoint"] == TRAINING["checkpoints"], "checkpoints are missing from the run")
    report = gated_lpi.build_report(run)
    need(Path(str(report.html)).stat().st_size > 100_000, "the report is nearly empty")
    last = max((folder / "training" / "moe").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    scores = gated_lpi.attribute(gated_lpi.load_model(str(last)), [("Anna was born in", "Rome")])
    need(np.isfinite(scores["lpi"].values).all(), "scores are not finite")
    need(scores["error_bound"].values.max() <= 1e-3, "a bound exceeds the tolerance")


def explored(folder: Path) -> None:
    """`gated-lpi explore` says where it answers, and its first page is of the run."""
    program = Path(sysconfig.get_paths()["scripts"]) / "gated-lpi"
    words = [program, "explore", folder, "--no-browser", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        stop = threading.Timer(WAIT, served.kill)
        stop.start()
        try:
            address = next((line.strip() for line in served.stdout if line.startswith("http")), "")
            need(address, "gated-lpi explore prints no address")
            with urllib.request.urlopen(address, timeout=WAIT) as page:
                need("tried" in page.read().decode(), "the explorer's first page does not name the run")
        finally:
            stop.cancel()
            served.terminate()


def main() -> None:
    """Try everything and say with what."""
    inside(Path(sys.argv[1]).read_text(encoding="utf-8").split("\n")[:-1])
    command_line()
    with tempfile.TemporaryDirectory() as folder:
        attributed(Path(folder) / "run")
        explored(Path(folder) / "run")
    import torch
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}"
    print(f"gated-lpi {gated_lpi.__version__} works on Python {sys.version.split()[0]} with {versions}")


if __name__ == "__main__":
    main()
