"""The options of commands that make a denoiser: its name and its parameters."""

from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from ._options import environment_variable, sentence
from ._parameters import DenoiserClass, all_denoisers, denoisers, option_name
from ._schedule_file import read_schedule

GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


@dataclass(frozen=True)
class Choice:
    """The denoiser that the options choose, and the values that they give its parameters.

    ``inner`` are the denoisers inside it. ``values`` holds a dict for each denoiser, the outer one
    first.
    """

    denoiser: DenoiserClass
    inner: tuple[DenoiserClass, ...]
    values: tuple[dict[str, Any], ...]

    @property
    def all(self):
        """All denoisers, the outer one first."""
        return (self.denoiser, *self.inner)


class DenoiserCommand(click.Command):
    """A command with ``--denoiser``, ``--inner`` and an option for every parameter of a denoiser.

    The command receives a `Choice` as the argument ``denoiser``. Its help shows the parameters of
    the denoiser that is named before ``--help``.
    """

    def get_params(self, ctx):
        """Return the options of the command and of all denoisers."""
        return [*super().get_params(ctx), *_parameter_options()]

    def parse_args(self, ctx, args):
        """Parse the options, and replace options of denoisers by a `Choice`."""
        rest = super().parse_args(ctx, args)
        given = {}
        for option in _parameter_options():
            value = ctx.params.pop(option.name, None)
            if ctx.get_parameter_source(option.name) in GIVEN:
                given[option] = value
        if not ctx.resilient_parsing:
            ctx.params["denoiser"] = _choice(ctx, ctx.params["denoiser"], given)
        return rest

    def format_options(self, ctx, formatter):
        """Write the options, the denoisers, and the parameters of one denoiser."""
        chosen = ctx.params.get("denoiser") or denoisers()["pspc"]
        options = [p for p in self.get_params(ctx) if not isinstance(p, ParameterOption)]
        records = (option.get_help_record(ctx) for option in options)
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record])
        with formatter.section("Denoisers"):
            formatter.write_dl([(each.name, each.title) for each in denoisers().values()])
        with formatter.section(f"Options of the denoiser {chosen.name}"):
            formatter.write_dl([help_record(each) for each in chosen.parameters.values()])
        with formatter.indentation():
            formatter.write_text(
                f"{ctx.command_path} --denoiser NAME --help shows the options of another denoiser."
            )


def help_record(parameter):
    """Return the name of a parameter's option and its help."""
    name, text = option_name(parameter.name), parameter.text
    if parameter.kinds != {"bool"}:
        name = f"{name} {parameter.metavar}"
    if parameter.default is not None and parameter.default is not False:
        default = parameter.default
        default = ",".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{text}  [default: {default}]"
    return name, text


class _DenoiserName(click.ParamType):
    """The short name or the class name of a denoiser, in any case."""

    name = "denoiser"

    def convert(self, value, param, ctx):
        if isinstance(value, DenoiserClass):
            return value
        name = value.lower().replace("_", "-")
        for each in all_denoisers().values():
            if name in (each.name, each.class_name.lower()):
                if each.missing is None:
                    return each
                self.fail(
                    f"{each.class_name} needs the parameter {each.missing}, which no option can "
                    "give; use it in Python.",
                    param,
                    ctx,
                )
        names = ", ".join(denoisers())
        self.fail(f"{value!r} is not one of {names}, or the name of their class.", param, ctx)

    def shell_complete(self, ctx, param, incomplete):
        return _items(denoisers(), incomplete)


def _items(words, incomplete):
    """Return the words that complete an unfinished one."""
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def denoiser_options(command):
    """Add ``--denoiser`` and ``--inner``."""
    inner = click.option(
        "--inner",
        type=_DenoiserName(),
        multiple=True,
        metavar="NAME",
        help="Denoiser inside 'smoothed', or one member of 'blended' (repeat the option). Options "
        "of denoisers apply to each of them.",
    )
    outer = click.option(
        "--denoiser",
        type=_DenoiserName(),
        is_eager=True,  # --help shows its options
        metavar="NAME",
        default="pspc",
        show_default=True,
        help="Name of the denoiser, see below, or of its class.",
    )
    return outer(inner(command))


class ParameterOption(click.Option):
    """The option of a parameter, which one or more denoisers or samplers have.

    ``parameters`` maps the name of each denoiser or sampler to its parameters, a dict.
    """

    def __init__(self, name, parameters):
        holders = {owner: each[name] for owner, each in parameters.items() if name in each}
        self.holders = list(holders)
        self.words = {word for each in holders.values() for word in each.words}
        is_flag = all(each.kinds == {"bool"} for each in holders.values())
        # with False instead of None, click would not take a negative number as the value
        super().__init__([option_name(name)], is_flag=is_flag or None)

    def shell_complete(self, ctx, incomplete):
        """Complete the words that the parameter may be."""
        return _items(sorted(self.words), incomplete)


_options: list[ParameterOption] = []


def _parameter_options():
    """Return one option for each name of a parameter of the denoisers."""
    if not _options:
        owners = {name: each.parameters for name, each in denoisers().items()}
        names = {name: None for parameters in owners.values() for name in parameters}
        _options.extend(ParameterOption(name, owners) for name in names)
    return _options


def bad_value(name, message):
    """Return the error of a bad value of the parameter ``name``."""
    ctx = click.get_current_context()
    (option,) = (each for each in _parameter_options() if each.name == name)
    return click.BadParameter(message, ctx, option)


def _choice(ctx, outer, given):
    """Return the `Choice` of the options; raise if they contradict each other.

    ``given`` maps options to the values that the user gives.
    """
    inner = ctx.params.pop("inner")
    _check_inner(ctx, outer, inner)
    chosen = (outer, *inner)
    for option in given:
        if not any(option.name in each.parameters for each in chosen):
            from_variable = ctx.get_parameter_source(option.name) is ParameterSource.ENVIRONMENT
            variable = f" (set by {environment_variable(ctx, option)})" if from_variable else ""
            raise click.UsageError(
                f"{option.opts[0]}{variable} is for the denoisers {listed(option.holders)}; leave "
                f"it out for {listed(each.name for each in chosen)}.",
                ctx,
            )
    values = tuple(
        {
            option.name: _value(each, each.parameters[option.name], value)
            for option, value in given.items()
            if option.name in each.parameters
        }
        for each in chosen
    )
    return Choice(outer, inner, values)


def _check_inner(ctx, outer, inner):
    """Raise unless the denoisers inside another one fit it."""
    takers = [each.name for each in denoisers().values() if each.inner]
    names = [each.name for each in inner]
    if names and outer.inner is None:
        problem = f"--inner is for the denoisers {listed(takers)}; leave it out for {outer.name}."
    elif not names and outer.inner is not None:
        problem = f"the denoiser {outer.name} needs a denoiser inside; add --inner NAME."
    elif len(names) > 1 and not outer.many:
        problem = f"the denoiser {outer.name} takes one --inner, got {listed(names)}."
    elif len(set(names)) < len(names):
        problem = f"every --inner must be another denoiser, got {listed(names)}."
    elif set(names) & set(takers):
        problem = f"--inner must not be {listed(takers, 'or')}; make these in Python."
    else:
        return
    raise click.UsageError(problem, ctx)


def listed(names, word="and"):
    """Return names as a phrase."""
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def _value(denoiser, parameter, text):
    """Return the value of a parameter; raise if the text of its option has none."""
    if isinstance(text, bool):
        return text
    if "schedule" in parameter.kinds and text.lower().endswith(".json"):
        try:
            return read_schedule(text)
        except (OSError, ValueError) as error:
            raise bad_value(parameter.name, sentence(error)) from error
    try:
        return parameter.read(text)
    except ValueError as error:
        raise bad_value(parameter.name, f"for the denoiser {denoiser.name} it {error}.") from error
