"""Every field of a public dataclass says what it holds: shape, unit, what its absence means."""

import ast
from pathlib import Path

import mediar_infer


def undocumented_fields(tree):
    """Class and name of each field of a public dataclass without a docstring under it."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        if not any("dataclass" in ast.unparse(each) for each in node.decorator_list):
            continue
        for field, below in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or field.target.id.startswith("_"):
                continue
            if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
                yield f"{node.name}.{field.target.id}"


def test_fields_without_a_docstring_are_found():
    body = "\n    x: int\n    y: int\n    'Rows.'\n    _z: int\n"
    source = f"@dataclass(slots=True)\nclass A:{body}@dataclass\nclass _B:{body}class C:{body}"
    assert list(undocumented_fields(ast.parse(source))) == ["A.x"]


def test_every_field_of_a_public_dataclass_has_a_docstring():
    folder = Path(mediar_infer.__file__).parent
    paths = sorted(folder.rglob("*.py"))
    missing = [
        f"{path.relative_to(folder)}: {name}"
        for path in paths
        for name in undocumented_fields(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert missing == []
    assert len(paths) > 100
