"""The options of a sampler and of its noise levels: their names and their parameters."""

import functools
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem

from ._denoiser_options import GIVEN, DenoiserCommand, ParameterOption, help_record, listed
from ._parameters import grids, samplers

_SAMPLER_WORDS = {
    "dpmpp_2m": "second order, one denoiser call per step",
    "heun": "second order, two calls",
    "edm": "heun with added noise",
    "euler": "first order, one call",
    "ddim": "euler, with added noise if --eta is set",
}
_GRID_WORDS = {
    "edm": "evenly spaced in sigma^(1 / rho)",
    "exponential": "evenly spaced in log sigma",
    "vp": "steps of DDPM",
    "flow": "evenly spaced in the time of flow matching",
}


@dataclass(frozen=True)
class SamplerChoice:
    """The sampler that the options choose, and the values that they give its parameters."""

    name: str
    values: dict[str, Any]

    def function(self):
        """Return the sampler; raise if it does not accept the values."""
        import torch

        from ..sampling import SAMPLERS

        sampler: Any = functools.partial(SAMPLERS[self.name], **self.values)
        for _ in sampler(lambda z, _sigma: z, torch.zeros(1, 1), [1.0]):
            pass
        return sampler if self.values else SAMPLERS[self.name]


@dataclass(frozen=True)
class GridChoice:
    """The grid of noise levels that the options choose, and the values of its parameters."""

    name: str
    values: dict[str, Any]

    def levels(self, n_steps, sigma_min, sigma_max):
        """Return the noise levels, a list of float; raise if a value is out of range."""
        from .. import sampling

        grid = grids()[self.name]
        ends = {"sigma_min": sigma_min, "sigma_max": sigma_max} if grid.has_ends else {}
        return getattr(sampling, grid.function)(n_steps, **ends, **self.values).tolist()


class SampleCommand(DenoiserCommand):
    """A command with ``--sampler``, ``--grid``, and an option for every parameter of both.

    The command receives a `SamplerChoice` and a `GridChoice` as the arguments ``sampler`` and
    ``grid``.
    """

    def get_params(self, ctx):
        """Return the options of the command, of samplers, of grids and of all denoisers."""
        return [*super().get_params(ctx), *_sampler_options(), *_grid_options()]

    def parse_args(self, ctx, args):
        """Parse the options, and replace options of the sampler and the grid by their choices."""
        rest = super().parse_args(ctx, args)
        sampler, grid = ctx.params["sampler"], ctx.params["grid"]
        choices = {
            "sampler": SamplerChoice(
                sampler, _values(ctx, "sampler", sampler, samplers()[sampler], _sampler_options())
            ),
            "grid": GridChoice(
                grid, _values(ctx, "grid", grid, grids()[grid].parameters, _grid_options())
            ),
        }
        if not ctx.resilient_parsing:
            _check_ends(ctx, grid)
            ctx.params.update(choices)
        return rest

    def format_options(self, ctx, formatter):
        """Write the options of `DenoiserCommand`, and the parameters of samplers and grids."""
        super().format_options(ctx, formatter)
        sections = {f"sampler {name}": each for name, each in samplers().items()}
        sections |= {f"grid {name}": each.parameters for name, each in grids().items()}
        for name, parameters in sections.items():
            if parameters:
                with formatter.section(f"Options of the {name}"):
                    formatter.write_dl([help_record(each) for each in parameters.values()])


def _values(ctx, kind, name, parameters, options):
    """Return the values that options give the parameters of a sampler or grid of a name."""
    values = {}
    for option in options:
        text = ctx.params.pop(option.name, None)
        if ctx.get_parameter_source(option.name) in GIVEN and not ctx.resilient_parsing:
            if option.name not in parameters:
                raise click.UsageError(
                    f"{option.opts[0]} is for the {kind} {listed(option.holders, 'or')}; leave it "
                    f"out for the {kind} {name}.",
                    ctx,
                )
            try:
                values[option.name] = parameters[option.name].read(text)
            except ValueError as error:
                raise click.BadParameter(f"it {error}.", ctx, option) from error
    return values


def _check_ends(ctx, grid):
    """Raise if an end is given for a grid that has fixed ends."""
    for name in ("sigma_max", "sigma_min"):
        if ctx.get_parameter_source(name) in GIVEN and not grids()[grid].has_ends:
            raise click.UsageError(
                f"the grid {grid} has fixed noise levels; leave out --sigma-max and --sigma-min.",
                ctx,
            )


@functools.cache
def _sampler_options():
    """Return one option for each name of a parameter of the samplers."""
    return _options(samplers())


@functools.cache
def _grid_options():
    """Return one option for each name of a parameter of the grids."""
    return _options({name: each.parameters for name, each in grids().items()})


def _options(owners):
    names = {name: None for parameters in owners.values() for name in parameters}
    return [ParameterOption(name, owners) for name in names]


class _NameType(click.ParamType):
    """A name among those that a function returns, and words on each."""

    def __init__(self, name, names, words):
        self.name = name
        self._names = names
        self._words = words

    def convert(self, value, param, ctx):
        if value not in self._names():
            self.fail(f"{value!r} is not one of {', '.join(self._names())}.", param, ctx)
        return value

    def shell_complete(self, ctx, param, incomplete):
        return [CompletionItem(name) for name in self._names() if name.startswith(incomplete)]

    def described(self):
        """Return all names, each with its words."""
        words = {name: self._words.get(name, "see the user guide") for name in self._names()}
        return ", ".join(f"'{name}' ({text})" for name, text in words.items())


class _NameOption(click.Option):
    """An option whose help lists the names when it is shown, as finding them takes time."""

    type: _NameType
    help: str

    def get_help_record(self, ctx):
        self.help = self.help.replace("NAMES", self.type.described())
        return super().get_help_record(ctx)


sampler_option = click.option(
    "--sampler",
    cls=_NameOption,
    type=_NameType("sampler", samplers, _SAMPLER_WORDS),
    default="dpmpp_2m",
    show_default=True,
    metavar="NAME",
    help="Solver of the probability-flow ODE: NAMES.",
)

grid_option = click.option(
    "--grid",
    cls=_NameOption,
    type=_NameType("grid", grids, _GRID_WORDS),
    default="edm",
    show_default=True,
    metavar="NAME",
    help="Noise levels of the steps: NAMES.",
)
