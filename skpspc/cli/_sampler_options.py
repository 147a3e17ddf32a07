"""The options of a sampler: its name and its parameters."""

from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem

from ._denoiser_options import GIVEN, DenoiserCommand, ParameterOption, help_record, listed
from ._parameters import samplers

_WORDS = {
    "heun": "second order, two denoiser calls per step",
    "euler": "first order, one call",
    "dpmpp_2m": "second order, one call",
    "ddim": "first order, one call",
    "edm": "heun with added noise",
}


@dataclass(frozen=True)
class SamplerChoice:
    """The sampler that the options choose, and the values that they give its parameters."""

    name: str
    values: dict[str, Any]

    def function(self):
        """Return the sampler; raise if it does not accept the values."""
        import functools

        import torch

        from ..sampling import SAMPLERS

        sampler: Any = functools.partial(SAMPLERS[self.name], **self.values)
        for _ in sampler(lambda z, _sigma: z, torch.zeros(1, 1), [1.0]):
            pass
        return sampler if self.values else SAMPLERS[self.name]


class SampleCommand(DenoiserCommand):
    """A command with ``--sampler`` and an option for every parameter of a sampler.

    The command receives a `SamplerChoice` as the argument ``sampler``.
    """

    def get_params(self, ctx):
        """Return the options of the command, of all samplers and of all denoisers."""
        return [*super().get_params(ctx), *_sampler_parameters()]

    def parse_args(self, ctx, args):
        """Parse the options, and replace those of the sampler by a `SamplerChoice`."""
        rest = super().parse_args(ctx, args)
        name, values = ctx.params["sampler"], {}
        for option in _sampler_parameters():
            text = ctx.params.pop(option.name, None)
            if ctx.get_parameter_source(option.name) in GIVEN:
                values[option.name] = _value(ctx, name, option, text)
        if not ctx.resilient_parsing:
            ctx.params["sampler"] = SamplerChoice(name, values)
        return rest

    def format_options(self, ctx, formatter):
        """Write the options of `DenoiserCommand`, and the parameters of all samplers."""
        super().format_options(ctx, formatter)
        for name, parameters in samplers().items():
            if parameters:
                with formatter.section(f"Options of the sampler {name}"):
                    formatter.write_dl([help_record(each) for each in parameters.values()])


def _value(ctx, sampler, option, text):
    """Return the value of a parameter of a sampler; raise if the sampler has none."""
    parameters = samplers()[sampler]
    if option.name not in parameters:
        raise click.UsageError(
            f"{option.opts[0]} is for {listed(option.holders)}; leave it out for the sampler "
            f"{sampler}.",
            ctx,
        )
    try:
        return parameters[option.name].read(text)
    except ValueError as error:
        raise click.BadParameter(f"it {error}.", ctx, option) from error


_options: list[ParameterOption] = []


def _sampler_parameters():
    """Return one option for each name of a parameter of the samplers."""
    if not _options:
        names = {name: None for parameters in samplers().values() for name in parameters}
        _options.extend(ParameterOption(name, samplers()) for name in names)
    return _options


class _SamplerName(click.ParamType):
    """The name of a sampler in the registry of `skpspc.sampling`."""

    name = "sampler"

    def convert(self, value, param, ctx):
        if value not in samplers():
            self.fail(f"{value!r} is not one of {', '.join(samplers())}.", param, ctx)
        return value

    def shell_complete(self, ctx, param, incomplete):
        return [CompletionItem(name) for name in samplers() if name.startswith(incomplete)]


class _SamplerOption(click.Option):
    """The option ``--sampler``; its help reads the registry of samplers when it is shown."""

    def get_help_record(self, ctx):
        words = {name: _WORDS.get(name, "see the user guide") for name in samplers()}
        names = (f"'{name}' ({text})" for name, text in words.items())
        self.help = f"Solver of the probability-flow ODE: {', '.join(names)}."
        return super().get_help_record(ctx)


sampler_option = click.option(
    "--sampler",
    cls=_SamplerOption,
    type=_SamplerName(),
    default="heun",
    show_default=True,
    metavar="NAME",
)
