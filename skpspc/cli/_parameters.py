"""Denoisers, samplers, grids and their parameters, read from the source without importing it.

Importing the estimators takes seconds (torch, scikit-learn). The help, shell completion and most
errors of the command line must not, so this module parses signatures and docstrings instead.
"""

import ast
import contextlib
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# Parameters that other options set, or that all commands leave at their defaults: they read images
# (n, C, H, W) on [-1, 1], and show their own progress.
_NO_OPTION = {
    "sigma",
    "sigmas",
    "n_steps",
    "image_shape",
    "data_range",
    "device",
    "random_state",
    "verbose",
}
_ENDS = {"sigma_min", "sigma_max"}  # of a grid of noise levels
_OTHER_OPTIONS = {"device": "--device", "random_state": "--seed"}


@dataclass(frozen=True)
class Parameter:
    """A parameter that an option gives.

    Attributes
    ----------
    name : str
    words : tuple of str
        Strings that the parameter may be.
    kinds : frozenset of str
        Other values: a subset of "bool", "int", "float", "str", "ints" (several) and "schedule" (of
        patch sizes, in a .json file).
    default : object
        None for a parameter without default.
    text : str
        Description, for the help.
    """

    name: str
    words: tuple[str, ...]
    kinds: frozenset[str]
    default: object
    text: str

    def read(self, text):
        """Return the value that a text stands for; raise ValueError if there is none."""
        if text in self.words:
            return text
        for kind, reader in _READERS.items():
            if kind in self.kinds:
                with contextlib.suppress(ValueError):
                    return reader(text)
        raise ValueError(f"must be {self.alternatives()}, got {text!r}")

    def alternatives(self, ranges: list[str] | None = None) -> str:
        """Return all values in words; a list ``ranges`` replaces the words for numbers."""
        numbers = [_WORDS[kind] for kind in ("int", "float") if kind in self.kinds]
        numbers = numbers if ranges is None else ranges
        others = [_WORDS[kind] for kind in ("str", "ints", "schedule") if kind in self.kinds]
        *most, last = [*numbers, *map(repr, self.words), *others]
        return f"{', '.join(most)} or {last}" if most else last

    @property
    def metavar(self):
        """Short form of the values, for the help."""
        numbers = [text for kind, text in _METAVARS.items() if kind in self.kinds]
        return "|".join([*numbers, *self.words])


@dataclass(frozen=True)
class DenoiserClass:
    """A denoiser.

    Attributes
    ----------
    name : str
        Short name: the name of its module.
    class_name : str
    title : str
        First sentence of its docstring.
    parameters : dict
        `Parameter` of each option, by name.
    arguments : frozenset of str
        All parameters of the estimator.
    inner : str or None
        Parameter that takes other denoisers.
    many : bool
        True if ``inner`` takes several.
    missing : str or None
        Parameter without default that no option gives.
    """

    name: str
    class_name: str
    title: str
    parameters: dict[str, Parameter]
    arguments: frozenset[str]
    inner: str | None
    many: bool
    missing: str | None


def option_name(parameter):
    """Return the name of the option of a parameter."""
    return "--" + parameter.replace("_", "-")


@functools.cache
def all_denoisers():
    """Return the descriptions of all denoisers by their short names."""
    package = _parsed("denoisers/__init__.py")
    homes = {
        alias.name: statement.module
        for statement in package.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    names = [name for name in homes if name.endswith(("Denoiser", "Collection"))]
    found = sorted((_denoiser(homes[name], name) for name in names), key=lambda each: each.name)
    return {denoiser.name: denoiser for denoiser in found}


@functools.cache
def denoisers():
    """Return the descriptions of the denoisers that options can make, by their short names."""
    return {name: each for name, each in all_denoisers().items() if each.missing is None}


@functools.cache
def samplers():
    """Return the parameters of each sampler in `skpspc.sampling.SAMPLERS`, dicts, by its name."""
    tree = _parsed("sampling/samplers.py")
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    registry = next(node.value for node in tree.body if _assigned(node) == "SAMPLERS")
    return {
        ast.literal_eval(name): _parameters_of_sampler(functions[ast.unparse(function)])
        for name, function in zip(registry.keys, registry.values, strict=True)
    }


@dataclass(frozen=True)
class Grid:
    """A grid of noise levels.

    ``function`` is its name in `skpspc.sampling`, ``parameters`` are those that options give, and
    ``has_ends`` is True if it takes the smallest and the largest noise level.
    """

    function: str
    parameters: dict[str, Parameter]
    has_ends: bool


@functools.cache
def grids():
    """Return the grids of noise levels by the names of their functions without "_sigmas"."""
    return {
        node.name.removesuffix("_sigmas"): _grid(node)
        for node in _parsed("sampling/schedules.py").body
        if isinstance(node, ast.FunctionDef) and re.fullmatch("[a-z]+_sigmas", node.name)
    }


def _grid(function):
    """Return the description of a grid; the first argument of its function is n_steps."""
    arguments = _arguments(function)
    names = {argument.arg for argument, _ in arguments}
    parameters = _parameters(arguments, ast.get_docstring(function) or "")
    others = {name: each for name, each in parameters.items() if name not in _ENDS}
    return Grid(function.name, others, names >= _ENDS)


def _assigned(node):
    """Return the name to which a statement assigns a value, or None."""
    match node:
        case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
            return name
    return None


def _parsed(path):
    """Return the syntax tree of a module of the package."""
    return ast.parse((_PACKAGE / path).read_bytes())


def _denoiser(module, class_name):
    """Return the description of a denoiser, from the source of its module."""
    body = _member(_parsed(f"denoisers/{module}.py"), class_name)
    docstring = ast.get_docstring(body) or ""
    arguments = _arguments(_member(body, "__init__"))
    inner, many, missing = None, False, None
    for argument, default in arguments:
        if default is None and "Denoiser" in _names(argument.annotation):
            inner, many = argument.arg, "Sequence" in _names(argument.annotation)
        elif default is None and not any(_values(argument.annotation)):
            missing = argument.arg
    return DenoiserClass(
        name=module.replace("_", "-"),
        class_name=class_name,
        title=docstring.partition("\n")[0],
        parameters=_parameters(arguments, docstring),
        arguments=frozenset(argument.arg for argument, _ in arguments),
        inner=inner,
        many=many,
        missing=missing,
    )


def _parameters_of_sampler(function):
    """Return the parameters of a sampler, which are keyword-only."""
    keywords = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return _parameters(list(keywords), ast.get_docstring(function) or "")


def _parameters(arguments, docstring):
    """Return each `Parameter` that an option can give, by its name."""
    values = {
        argument.arg: (*_option_values(argument), default)
        for argument, default in arguments
        if argument.arg not in _NO_OPTION
    }
    given = {name: each for name, each in values.items() if each[1] or len(each[0]) > 1}
    options = _OTHER_OPTIONS | {name: option_name(name) for name in given}
    texts = _descriptions(docstring, options)
    return {
        name: Parameter(
            name, tuple(words), frozenset(kinds), _literal(default), texts.get(name, "")
        )
        for name, (words, kinds, default) in given.items()
    }


def _member(node, name):
    """Return the class or function of a name in a module or class."""
    return next(child for child in node.body if getattr(child, "name", None) == name)


def _arguments(function):
    """Return the arguments but the first, each with its default or None."""
    positional = function.args.args[1:]
    n_required = len(positional) - len(function.args.defaults)
    defaults = [None] * n_required + function.args.defaults
    keywords = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return [*zip(positional, defaults, strict=True), *keywords]


def _names(annotation):
    """Return all names in an annotation."""
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}


def _values(annotation):
    """Return the words and the kinds of values that an annotation allows, see `Parameter`."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            words, kinds = _values(left)
            more_words, more_kinds = _values(right)
            return words + more_words, kinds | more_kinds
        case ast.Subscript(value=ast.Name("Literal")):
            literals = ast.literal_eval(annotation.slice)
            return (list(literals) if isinstance(literals, tuple) else [literals]), set()
        case ast.Subscript(value=ast.Name("Sequence"), slice=ast.Name("int")):
            return [], {"ints"}
        case ast.Name("bool" | "int" | "float" | "str" as name):
            return [], {name}
    return [], set()


def _option_values(argument):
    """Return the words and kinds of a parameter; a patch size may also be a schedule in a file."""
    words, kinds = _values(argument.annotation)
    if argument.arg == "patch_size" and "BySigma" in _names(argument.annotation):
        kinds = kinds | {"schedule"}
    return words, kinds


def _literal(default):
    """Return a default as a value if it is a literal, else as its source text."""
    if default is None:
        return None
    try:
        return ast.literal_eval(default)
    except ValueError:
        return ast.unparse(default).removeprefix("math.")


def _descriptions(docstring, options):
    """Return the descriptions in the numpydoc section "Parameters" by name, for a terminal.

    ``options`` maps names of parameters to the options that give them.
    """
    sections = re.findall(r"^Parameters\n-+\n(.*?)(?:^\w[\w ]*\n-+$|\Z)", docstring, re.M | re.S)
    entries = re.findall(r"^([\w, ]+) : .*\n((?:(?: .*)?\n)*)", "\n".join([*sections, ""]), re.M)
    return {
        name: _for_terminal(text, options) for names, text in entries for name in names.split(", ")
    }


def _for_terminal(text, options):
    """Return the first sentence and the sentences on single values, without markup."""

    def plain(code):
        name, equals, value = code.group(1).partition("=")
        if name not in options:
            return code.group(1)
        return f"{options[name]} {value}" if equals and value != "True" else options[name]

    text = " ".join(text.split()).replace(" (see Notes)", "")
    text = re.sub(r"``([^`]*)``", plain, text)
    text = re.sub(r"(?::\w+:)?`([^`]*)`", r"\1", text)
    text = re.sub(r"\\operatorname\{(\w+)\}", r"\1", text).replace("\\", "")
    first, *others = re.split(r"(?<=\.) ", text)
    return " ".join([first, *(s for s in others if re.match(r'"|True:|False:', s))])


def _ints(text):
    return tuple(map(int, text.split(",")))


def _text(text):
    if not text:
        raise ValueError
    return text


_READERS: dict[str, Callable] = {"int": int, "float": float, "ints": _ints, "str": _text}
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "ints": "integers such as 3,5",
    "schedule": "a .json file of `skpspc calibrate`",
}
_METAVARS = {"int": "N", "float": "X", "ints": "N,...", "str": "TEXT", "schedule": "FILE.json"}
