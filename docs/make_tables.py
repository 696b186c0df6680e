"""Write the tables of the documentation that are made of code: scores (`score_schema`) and options (`options`).

python docs/make_tables.py           # write them
python docs/make_tables.py --check   # exit with 1 if one is not what it would be
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from gated_lpi.options import METHODS_BY_NAME, Scoring
from gated_lpi.options.methods import flat_fields
from gated_lpi.score_schema import OF_RUNS, SCHEMA

PAGE = Path(__file__).resolve().parent / "results.md"


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


def written(page: str) -> str:
    """The page with its tables."""
    for name, table in {"scores": scores(), "options": options()}.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        content = "\n".join((begin, *table, end))
        page, count = re.subn(f"{begin}.*?{end}", lambda _, content=content: content, page, flags=re.DOTALL)
        assert count == 1, name
    return page


def main() -> None:
    """Write the tables, or compare them."""
    before = PAGE.read_text(encoding="utf-8")
    after = written(before)
    if sys.argv[1:] == ["--check"]:
        print("tables are what the code says" if after == before else "tables differ: python docs/make_tables.py")
        sys.exit(after != before)
    PAGE.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
