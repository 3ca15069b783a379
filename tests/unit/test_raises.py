"""Every refusal has a test: a run of characters that only its message has stands in what some test expects to read.

What a test expects: strings in ``match=``, in ``@pytest.mark.parametrize`` (refused jobs are listed there with what they say),
and in assertions of the form ``"..." in text``. Messages that are passed on unchanged have no text of their own and are left out.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for name in ("anchornet", "jobs", "cluster") for path in (ROOT / name).rglob("*.py"))
RUN = 12
"""Characters in a row of a message that a test must expect, and no other message may have."""
SHORTEST = 8
"""Characters of the shortest literal part that says anything; one below RUN must be expected whole."""
OWED: set[str] = set()
"""Files that have raises without a test so far."""

Pieces = tuple[str, ...]
"""The literal parts of a message, in order."""


def pieces_of(node: ast.AST) -> Pieces:
    """Literal parts of the string that an expression gives."""
    strings = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
    return tuple(text for text in strings if isinstance(text, str) and len(text) >= SHORTEST)


def raisers(tree: ast.Module) -> dict[str, int]:
    """Functions that raise a message they are given: name -> position of that argument."""
    found = {}
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        names = [argument.arg for argument in function.args.args]
        for node in ast.walk(function):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                message = node.exc.args[0]
                if isinstance(message, ast.Name) and message.id in names:
                    found[function.name] = names.index(message.id)
    return found


def refusals(tree: ast.Module, helpers: dict[str, int]) -> Iterator[tuple[int, Pieces]]:
    """(line, literal parts of the message) of every raise that has a text of its own, and of every call of a helper."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    within = {id(child): function for function in functions for child in ast.walk(function)}  # innermost: walked last
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            message = node.exc.args[0]
            for line, source in _sources(message, within.get(id(node)), tree):
                pieces = pieces_of(source)
                if pieces:
                    yield line, pieces
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in helpers:
            pieces = pieces_of(node.args[helpers[node.func.id]])
            if pieces:
                yield node.lineno, pieces


def _sources(message: ast.expr, function: ast.FunctionDef | None, tree: ast.Module) -> Iterator[tuple[int, ast.expr]]:
    """The expressions that a message may come from: itself, or what its variable or function is given elsewhere."""
    if isinstance(message, ast.Name) and function is not None:
        yield from _values_of(message.id, function)
    elif isinstance(message, ast.Call) and isinstance(message.func, ast.Name):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == message.func.id:
                returns = (each for each in ast.walk(node) if isinstance(each, ast.Return) and each.value)
                yield from ((each.lineno, each.value) for each in returns if each.value)
    else:
        yield message.lineno, message


def _values_of(name: str, function: ast.FunctionDef) -> Iterator[tuple[int, ast.expr]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            yield node.lineno, node.value


def expectations(tree: ast.Module) -> Iterator[str]:
    """The texts that the tests of a file expect, backslashes of regular expressions removed."""
    checkers = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and _hands_on_match(node)}
    for node in ast.walk(tree):
        wanted: list[ast.expr] = []
        if isinstance(node, ast.Call):
            wanted = [keyword.value for keyword in node.keywords if keyword.arg == "match"]
            if isinstance(node.func, ast.Attribute) and node.func.attr == "parametrize":
                wanted = list(node.args[1:])
            elif ast.unparse(node.func).removeprefix("self.") in checkers:
                wanted = list(node.args)
        elif isinstance(node, ast.For) and _matches(_names(node.target), node):
            wanted = [node.iter]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In):
            wanted = [node.left]
        for text in (text for each in wanted for text in pieces_of(each)):
            yield text.replace("\\", "")


def _hands_on_match(function: ast.FunctionDef) -> bool:
    """True for a helper that expects a message it was given: ``match=`` one of its own arguments."""
    return _matches({argument.arg for argument in function.args.args}, function)


def _names(*targets: ast.expr) -> set[str]:
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


def _matches(names: set[str], node: ast.AST) -> bool:
    """True when one of these variables is what ``match=`` or ``... in text`` is given below ``node``."""
    calls = (keyword for call in ast.walk(node) if isinstance(call, ast.Call) for keyword in call.keywords)
    expected = [keyword.value for keyword in calls if keyword.arg == "match"]
    expected += [
        each.left for each in ast.walk(node) if isinstance(each, ast.Compare) and isinstance(each.ops[0], ast.In)
    ]
    return any(isinstance(value, ast.Name) and value.id in names for value in expected)


def runs(text: str) -> set[str]:
    """All stretches of RUN characters, or the whole of a shorter text."""
    return {text[start : start + RUN] for start in range(max(1, len(text) - RUN + 1))}


def untested(messages: dict[str, Pieces], expected: set[str]) -> set[str]:
    """Names of the messages of which nothing that is theirs alone is expected.

    Equal messages count as one; of a message that has nothing for itself alone, anything counts.
    """
    distinct = {pieces: set().union(*map(runs, pieces)) for pieces in messages.values()}
    times = Counter(run for of_message in distinct.values() for run in of_message)
    own = {pieces: {run for run in mine if times[run] == 1} or mine for pieces, mine in distinct.items()}
    seen = "\n".join(expected)
    return {name for name, pieces in messages.items() if not any(run in seen for run in own[pieces])}


@cache
def missing() -> frozenset[str]:
    """``file:line`` of each raise without a test."""
    trees = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in SOURCES}
    helpers = {name: position for tree in trees.values() for name, position in raisers(tree).items()}
    messages = {f"{path}:{line}": pieces for path, tree in trees.items() for line, pieces in refusals(tree, helpers)}
    tests = [ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py")]
    return frozenset(untested(messages, {text for tree in tests for text in expectations(tree)}))


def test_every_raise_has_a_test() -> None:
    assert not sorted(where for where in missing() if where.split(":")[0] not in OWED)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise ValueError(f'width {w} must be even; round it')", [(1, (" must be even; round it",))]),
        ("raise ValueError('a long one')\nraise OSError('of the world')", [(1, ("a long one",)), (2, ("of the world",))]),
        ("def need(ok, text):\n  raise ValueError(text)\nneed(1, 'first of them')", [(3, ("first of them",))]),
        ("def f():\n  text = f'{x} is not there'\n  raise ValueError(text)", [(2, (" is not there",))]),
        ("def f():\n  return 'made elsewhere'\nraise ValueError(f())", [(2, ("made elsewhere",))]),
        ("raise ConfigError(f'{source}: {error}')", []),
        ("raise KeyboardInterrupt", []),
        ("raise error", []),
    ],
)  # fmt: skip
def test_messages_are_found(source: str, expected: list[tuple[int, Pieces]]) -> None:
    tree = ast.parse(source)
    assert list(refusals(tree, raisers(tree))) == expected


def test_only_what_a_message_has_alone_counts() -> None:
    messages = {"a:1": ("width must be even; choose another",), "b:2": ("height must be even; choose another",)}
    assert untested(messages, {"must be even; choose another"}) == {"a:1", "b:2"}
    assert untested(messages, {"must be even", "width must be"}) == {"b:2"}
    assert untested(messages, set()) == {"a:1", "b:2"}
    part = {"a:1": ("too many pixels",), "b:2": ("too many pixels: more than",)}
    assert untested(part, {"too many pixels"}) == {"b:2"}


def test_expectations_are_found() -> None:
    source = r"""
@pytest.mark.parametrize(("given", "message"), [(["a=1"], "the job would wait")])
def test(message):
    with pytest.raises(ValueError, match=rf"no ledger\.json in {folder} there"):
        pass
    assert "below the first exit" in text
    refused("what is given", "what it says")
    other("not expected at all")

def refused(given, message):
    with pytest.raises(ValueError, match=message):
        pass
"""
    found = {"the job would wait", "no ledger.json in ", "below the first exit", "what is given", "what it says"}
    assert set(expectations(ast.parse(source))) == found
