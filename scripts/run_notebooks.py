"""Run the notebooks of `examples` and keep what they show: python scripts/run_notebooks.py [NAME ...]

The first asks SmolLM2-135M, which `make smollm2` fetches. Execution counts, what went to standard error and other marks
of the one run are left out, so that only what was found differs from run to run.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LONGEST = 1800  # seconds of a cell


def run(path: Path) -> nbformat.NotebookNode:
    """Run a notebook where it lies, in a process of its own.

    Raises:
        CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    with tempfile.TemporaryDirectory() as folder:  # for sockets of this machine, in place of ports
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")
        client = NotebookClient(notebook, km=kernel, timeout=LONGEST, startup_timeout=LONGEST, resources=where)
        client.execute(cleanup_kc=True)  # the kernel and its sockets go with it
    return notebook


def plain(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without the marks of one run."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.pop("execution_count", None)
                output.metadata = {}
    return notebook


def main() -> None:
    """Run those that are named, or all."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            nbformat.write(plain(run(path)), path)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
