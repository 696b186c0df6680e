"""Write the tables of the documentation that are made of code and data.

Those are scores (`score_schema`), options (`options`), types of models (`models/census.json`), the keys of experiment
files (`experiment_tables`), the command line (`cli_tables`), public names (`name_tables`) and the licences of what is
needed (`licence_table`).

python docs/make_tables.py           # write them
python docs/make_tables.py --check   # exit with 1 if one is not what it would be
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from cli_tables import command_line
from experiment_tables import experiment_file
from gated_lpi.options import METHODS_BY_NAME, Scoring
from gated_lpi.options.methods import flat_fields
from gated_lpi.score_schema import OF_RUNS, SCHEMA
from licence_table import licences
from name_tables import measures, packages

DOCS = Path(__file__).resolve().parent
CENSUS = DOCS.parent / "src" / "gated_lpi" / "models" / "census.json"


def scores() -> Iterable[str]:
    """Every variable of `attribute`, and what runs add."""
    yield "| variable | dimensions | unit | what it is | prompts reduced by `keep` | method |"
    yield "|---|---|---|---|---|---|"
    for name, variable in (SCHEMA | OF_RUNS).items():
        dims, reduced = ", ".join(variable.dims), "yes" if variable.reduced else ""
        meaning = variable.meaning.replace("|", "\\|")
        where = " (runs)" if name in OF_RUNS else ""
        yield f"| `{name}`{where} | {dims} | {variable.unit} | {meaning} | {reduced} | {variable.method} |"


def options() -> Iterable[str]:
    """Keys of `[attribution]`, which are options of `gated-lpi attribute` as well."""
    yield "| key | default | what it is | belongs to |"
    yield "|---|---|---|---|"
    owners: dict[str, list[str]] = {}
    fields = {}
    for owner in (*METHODS_BY_NAME.values(), Scoring):
        for name, (_, field) in flat_fields(owner).items():
            owners.setdefault(name, []).append(f"`{owner.__name__}`")
            fields[name] = field
    for name, field in fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        yield f"| `{name}` | `{default}` | {field.description} | {', '.join(owners[name])} |"


def attributed() -> Iterable[str]:
    """Types of causal language models that can be attributed, by what they are read by."""
    return _types("attributed", "read as", lambda one: one["family"])


def refused() -> Iterable[str]:
    """Types that cannot be attributed, with the reason."""
    return _types(
        "refused",
        "why it is refused",
        lambda one: re.sub(r"[|<>*_\[\]]", lambda found: "\\" + found[0], one["reason"]),
    )


def _types(status: str, head: str, said: Callable[[Mapping[str, str]], str]) -> Iterable[str]:
    """The types of one status, with what is said of each."""
    types = json.loads(CENSUS.read_text(encoding="utf-8"))["types"]
    chosen = [one for one in types if one["status"] == status]
    yield f"{len(chosen)} types:"
    yield ""
    yield f"| `model_type` | {head} |"
    yield "|---|---|"
    for one in chosen:
        yield f"| `{one['model_type']}` | {said(one)} |"


PAGES: Mapping[str, Mapping[str, Callable[[], Iterable[str]]]] = {
    "results.md": {"scores": scores, "options": options},
    "families.md": {"attributed": attributed, "refused": refused},
    "experiment-file.md": {"experiment file": experiment_file},
    "cli.md": {"command line": command_line},
    "metrics.md": {"measures": measures},
    "api.md": {"packages": packages},
    "../LICENSES.md": {"licences": licences},
}


def written(page: str, tables: Mapping[str, Callable[[], Iterable[str]]]) -> str:
    """The page with its tables."""
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        content = "\n".join((begin, *table(), end))
        page, count = re.subn(f"{begin}.*?{end}", lambda _, content=content: content, page, flags=re.DOTALL)
        assert count == 1, name
    return page


def main() -> None:
    """Write the tables, or compare them."""
    differ = []
    for name, tables in PAGES.items():
        before = (DOCS / name).read_text(encoding="utf-8")
        after = written(before, tables)
        if after != before:
            differ.append(name)
            if sys.argv[1:] != ["--check"]:
                (DOCS / name).write_text(after, encoding="utf-8")
    if sys.argv[1:] == ["--check"]:
        print(
            f"tables differ in {', '.join(differ)}: python docs/make_tables.py"
            if differ
            else "tables are what the code says"
        )
        sys.exit(bool(differ))


if __name__ == "__main__":
    main()
