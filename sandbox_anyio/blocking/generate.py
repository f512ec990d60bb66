"""Write the methods of the synchronous face, from those of the asynchronous classes.

    python -m sandbox_anyio.blocking.generate            write them
    python -m sandbox_anyio.blocking.generate --check    say what is not as it would be written

A method keeps its name, its signature and its docstring, in the words of those who block; its
body hands the call over to the asynchronous method. What cannot be said in one line so
(construction, iteration, context managers) is written by hand, in the classes above.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from ._rules import (
    NAMES,
    PARAMETERS,
    PHRASES,
    RESULTS,
    UNITS,
    Result,
    Unit,
    spoken_synchronously,
)

_HERE = Path(__file__).parent
_WIDTH = 100
_INDENT = " " * 4
_HEADER = '''"""What is in ``sandbox_anyio/{source}``, for code that blocks.

Written by ``python -m sandbox_anyio.blocking.generate``, which see.
"""

from __future__ import annotations
'''

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m sandbox_anyio.blocking.generate")
    parser.add_argument("--check", action="store_true", help="write nothing, say what is stale")
    check = parser.parse_args(arguments).check
    stale = [path for path, text in generated().items() if _text_of(path) != text]
    if check:
        for path in stale:
            print(
                f"stale: {path.relative_to(_HERE)}; run python -m sandbox_anyio.blocking.generate"
            )
        return 1 if stale else 0
    for path, text in generated().items():
        path.write_text(text)
    return 0


def _text_of(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def generated() -> dict[Path, str]:
    """What there is to write."""
    sources = dict.fromkeys(unit.source for unit in UNITS)
    texts = {
        _HERE / "generated" / source: _Module(
            source, [unit for unit in UNITS if unit.source == source]
        ).text()
        for source in sources
    }
    if unused := [old for old in PHRASES if old not in _seen_phrases]:
        raise SystemExit(f"no docstring has these phrases any more: {unused}")
    return texts


_seen_phrases: set[str] = set()


class _Module:
    """One asynchronous module, and what becomes of its classes."""

    def __init__(self, source: str, units: list[Unit]) -> None:
        self._source, self._units = source, units
        self._code = (_HERE.parent / source).read_text()
        self._tree = ast.parse(self._code)
        self._imports = dict(_imports(self._tree))
        self._local = {name for node in self._tree.body for name in _defined(node)}
        self._needed: set[str] = set()  # names of the source's
        self._needed_now: set[str] = set()  # those that are looked up when the module is loaded
        self._ours: set[tuple[str, str]] = set()  # names of this package's

    def text(self) -> str:
        classes = [self._class(unit) for unit in self._units]
        parts = [_HEADER.format(source=self._source), self._import_text(), *classes]
        return "\n".join(part for part in parts if part)

    # --- classes ----------------------------------------------------------------------

    def _class(self, unit: Unit) -> str:
        node = next(
            each
            for each in self._tree.body
            if isinstance(each, ast.ClassDef) and each.name == unit.name
        )
        decorator = "@attrs.define\n" if unit.attrs else ""
        if unit.attrs:
            self._needed_now.add("attrs")
        base, _, argument = unit.base.partition("[")
        self._ours.add(("base", base))
        if argument:
            self._needed_now.add(argument.rstrip("]"))
        lines = [f'\n{decorator}class {unit.made}({unit.base}):\n    """See `{unit.face}`."""\n']
        lines += [
            self._function(function, node, unit)
            for function in node.body
            if isinstance(function, Function)
            and unit.wants(function.name)
            and "classmethod" not in map(ast.unparse, function.decorator_list)
        ]
        return "\n".join(lines)

    def _function(self, function: Function, node: ast.ClassDef, unit: Unit) -> str:
        decorators = [ast.unparse(each) for each in function.decorator_list]
        returns = self._segment(function.returns) if function.returns else "None"
        if "asynccontextmanager" in decorators:
            returns = f"AbstractAsyncContextManager[{returns.split('[')[1]}"
        result = RESULTS.get(returns)
        if result is None:
            for name in NAMES:
                if name in returns:
                    raise SystemExit(f"no rule for what {function.name} returns: {returns}")
            result = Result(returns)
            self._note_names(function.returns)
        self._ours.update(result.imports)
        self._needed.update(result.needs)
        lines = []
        if "overload" in decorators:
            self._needed_now.add("overload")
            lines.append("@overload")
        if "property" in decorators:
            lines.append("@property")
        name = unit.renamed.get(function.name, function.name)
        arguments = _Arguments(self, function)
        lines += _wrapped_signature(name, arguments.declared, result.annotation)
        if "overload" in decorators:
            lines[-1] += " ..."
            return _indented(lines, 1)
        lines += _indented_by_hand(self._docstring(function, node, unit))
        methods = [each.name for each in node.body if isinstance(each, Function)]
        body = self._body(function, decorators, arguments.passed, result, methods)
        return _indented([*lines, *(_INDENT + line for line in body)], 1)

    def _docstring(self, function: Function, node: ast.ClassDef, unit: Unit) -> str:
        first = function.body[0]
        if function.name == "__init__":  # its parameters stand in the class's docstring
            described = unit.parameters(self._tree_of(unit.documented_in))
            rows = [_INDENT * 2 + row for row in [*described, '"""']]
            return spoken_synchronously("\n".join(['"""', *rows]), _seen_phrases)
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
            raise SystemExit(f"{function.name} has no docstring")
        return spoken_synchronously(self._segment(first), _seen_phrases)

    def _tree_of(self, module: str) -> ast.Module:
        return ast.parse((_HERE.parent / module).read_text())

    def _body(
        self,
        function: Function,
        decorators: list[str],
        passed: list[str],
        result: Result,
        methods: list[str],
    ) -> list[str]:
        if function.name == "__init__":
            self._ours.add(("..client", "AsyncSandboxClient"))
            return _wrapped_call("self._begin(", "AsyncSandboxClient", passed, ")")
        if "property" in decorators:
            if result.awaited:
                return [f"return self._call(lambda it: it.{function.name})"]
            return [f"return self._async.{function.name}"]
        if (alias := _alias_of(function, methods)) is not None:
            return [f"return {alias}"]
        target = f"it.{function.name}"
        overloaded = methods.count(function.name) > 1
        if overloaded:
            self._needed_now.update(("cast", "Any"))
            target = f"cast(Any, it).{function.name}"
        how = result.helper
        waits = isinstance(function, ast.AsyncFunctionDef) or result.awaited
        if how == "_call" and not waits:
            how = "_do"
        if result.annotation == "None":
            return _wrapped_call(f"self.{how}(lambda it: ", target, passed, ")")
        if overloaded:
            given = _wrapped_call(f"ended = self.{how}(lambda it: ", target, passed, ")")
            return [*given, f"return self.{result.convert}(ended)"]
        if result.convert is None:
            return _wrapped_call(f"return self.{how}(lambda it: ", target, passed, ")")
        if how == "_iterate":
            given = _wrapped_call(f"each = self.{how}(lambda it: ", target, passed, ")")
            return [*given, f"return map(self.{result.convert}, each)"]
        given = _wrapped_call(f"made = self.{how}(lambda it: ", target, passed, ")")
        return [*given, f"return self.{result.convert}(made)"]

    # --- names ------------------------------------------------------------------------

    def _segment(self, node: ast.AST) -> str:
        text = ast.get_source_segment(self._code, node)
        assert text is not None
        return text

    def annotation(self, node: ast.expr | None) -> str:
        """An annotation as it stands, its names noted."""
        if node is None:
            return ""
        self._note_names(node)
        return self._segment(node)

    def default(self, node: ast.expr) -> str:
        """A default as it stands, its names noted."""
        self._needed_now.update(each.id for each in ast.walk(node) if isinstance(each, ast.Name))
        return self._segment(node)

    def ours(self, module: str, name: str) -> None:
        """A name of this package is used."""
        self._ours.add((module, name))

    def needs(self, *names: str) -> None:
        """Names of the source's are used in annotations."""
        self._needed.update(names)

    def _note_names(self, node: ast.AST | None) -> None:
        for each in ast.walk(node) if node is not None else ():
            if isinstance(each, ast.Name):
                self._needed.add(each.id)

    def _import_text(self) -> str:
        now: dict[str, set[str]] = {}
        typing: dict[str, set[str]] = {}
        for name in self._needed_now:
            if (found := self._home_of(name)) is not None:
                now.setdefault(found, set()).add(name)
        for name in self._needed - self._needed_now:
            if (found := self._home_of(name)) is not None:
                typing.setdefault(found, set()).add(name)
        for module, name in self._ours:
            in_use = module in ("base", "callers") or module.startswith("..")
            home = f".{module}" if module.startswith(".") else f"..{module}"
            (now if in_use else typing).setdefault(home, set()).add(name)
        if typing:
            now.setdefault("typing", set()).add("TYPE_CHECKING")
        lines = _import_block(now)
        if typing:
            lines += ["", "if TYPE_CHECKING:"]
            lines += [_INDENT + line if line else "" for line in _import_block(typing)]
        return "\n".join(lines) + "\n"

    def _home_of(self, name: str) -> str | None:
        if name in self._imports:
            module = self._imports[name]
            return f"..{module}" if module.startswith(".") else module
        if name in self._local:
            return f"...{self._source.removesuffix('.py')}"
        return _WELL_KNOWN.get(name)


_WELL_KNOWN = {
    "cast": "typing",
    "Any": "typing",
    "attrs": "",
    "Iterable": "collections.abc",
    "Iterator": "collections.abc",
    "AbstractContextManager": "contextlib",
    "AsyncSandboxClient": "...client",
}


class _Arguments:
    """The parameters of a method: as they are declared here, and as they are passed on."""

    def __init__(self, module: _Module, function: Function) -> None:
        self._module = module
        self.declared: list[str] = []
        self.passed: list[str] = []
        given = function.args
        plain = [*given.posonlyargs, *given.args]
        defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
        for argument, default in zip(plain, defaults, strict=True):
            if argument.arg == "self":
                self.declared.append("self")
            else:
                self._add(argument, default, by_name=False)
        if given.vararg or given.kwonlyargs:
            self.declared.append("*")
        for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
            self._add(argument, default, by_name=True)
        if given.kwarg is not None:
            annotation = module.annotation(given.kwarg.annotation)
            self.declared.append(f"**{given.kwarg.arg}: {annotation}")
            self.passed.append(f"**{given.kwarg.arg}")

    def _add(self, argument: ast.arg, default: ast.expr | None, *, by_name: bool) -> None:
        name = argument.arg
        annotation = ast.unparse(argument.annotation) if argument.annotation else "Any"
        value = name
        if (rule := PARAMETERS.get(annotation)) is not None:
            annotation, value = rule.annotation, f"{rule.wrap}({name})"
            self._module.ours("callers", rule.wrap)
            if rule.ours:
                self._module.ours("callers", rule.annotation)
            self._module.needs(*rule.needs)
        else:
            if "Async" in annotation or "Awaitable" in annotation:
                raise SystemExit(f"no rule for the parameter {name}: {annotation}")
            annotation = self._module.annotation(argument.annotation)
        if default is None:
            self.declared.append(f"{name}: {annotation}")
        else:
            self.declared.append(f"{name}: {annotation} = {self._module.default(default)}")
        self.passed.append(f"{name}={value}" if by_name else value)


def _alias_of(function: Function, methods: list[str]) -> str | None:
    """The call, if the method does nothing but call another one of the same object."""
    *_, last = function.body
    if len(function.body) > 2 or not isinstance(last, ast.Return):
        return None
    public = [name for name in methods if not name.startswith("_")]
    match last.value:
        case ast.Await(ast.Call(ast.Attribute(ast.Name("self"), name)) as call) if name in public:
            return ast.unparse(call).replace("'", '"')
    return None


# --- text --------------------------------------------------------------------------------


def _wrapped_signature(name: str, declared: list[str], returns: str) -> list[str]:
    line = f"def {name}({', '.join(declared)}) -> {returns}:"
    if len(line) <= _WIDTH - len(_INDENT):
        return [line]
    middle = ", ".join(declared)
    if len(middle) <= _WIDTH - 2 * len(_INDENT):
        return [f"def {name}(", f"{_INDENT}{middle}", f") -> {returns}:"]
    return [f"def {name}(", *(f"{_INDENT}{each}," for each in declared), f") -> {returns}:"]


def _wrapped_call(before: str, target: str, passed: list[str], after: str) -> list[str]:
    """A call within a call, broken as it has to be."""
    width = _WIDTH - 2 * len(_INDENT)
    line = f"{before}{target}({', '.join(passed)}){after}"
    if len(line) <= width:
        return [line]
    opening, _, head = before.partition("(")
    inner = f"{head}{target}({', '.join(passed)})"
    if len(inner) <= width - len(_INDENT):
        return [f"{opening}(", f"{_INDENT}{inner}", after]
    arguments = ", ".join(passed)
    if len(arguments) <= width - 2 * len(_INDENT):
        rows = [f"{_INDENT * 2}{arguments}"]
    else:
        rows = [f"{_INDENT * 2}{each}," for each in passed]
    return [f"{opening}(", f"{_INDENT}{head}{target}(", *rows, f"{_INDENT})", after]


def _indented(lines: list[str], levels: int) -> str:
    text = "\n".join(lines).split("\n")
    return "\n".join(_INDENT * levels + line if line else "" for line in text) + "\n"


def _indented_by_hand(docstring: str) -> list[str]:
    """A docstring of a method, whose further lines are indented by two levels already."""
    first, *rest = docstring.split("\n")
    return [_INDENT + first, *(line.removeprefix(_INDENT) for line in rest)]


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Which name comes from which module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, "." * node.level + (node.module or "")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, ""


def _defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.ClassDef(name) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
            return [name]
        case ast.Assign(targets):
            return [each.id for each in targets if isinstance(each, ast.Name)]
        case ast.AnnAssign(ast.Name(name)):
            return [name]
    return []


def _import_block(modules: dict[str, set[str]]) -> list[str]:
    """Imports in the order in which the linter wants them."""
    ours: list[str] = []
    known: list[str] = []
    third: list[str] = []
    standard = [f"import {name}" for name in sorted(modules.get("", ())) if name != "attrs"]
    if "attrs" in modules.get("", ()):
        third.append("import attrs")
    for module in sorted(filter(None, modules), key=_module_order):
        names = sorted(modules[module], key=_name_order)
        line = f"from {module} import {', '.join(names)}"
        if len(line) > _WIDTH - len(_INDENT):
            rows = [f"{_INDENT}{name}," for name in names]
            line = "\n".join([f"from {module} import (", *rows, ")"])
        top = module.split(".")[0]
        group = ours if not top else known if top.startswith("sandbox_") else standard
        group += line.split("\n")
    lines: list[str] = []
    for group in filter(None, (standard, third, known, ours)):
        lines += ["", *group] if lines else group
    return lines


def _module_order(module: str) -> tuple[int, str]:
    name = module.lstrip(".")
    return -(len(module) - len(name)), name


def _name_order(name: str) -> tuple[int, str]:
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name


if __name__ == "__main__":
    sys.exit(main())
