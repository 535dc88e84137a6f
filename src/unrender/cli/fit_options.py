"""The options of ``unrender fit``, composed of a recipe's preset, its choices and its kind of input."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal

from unrender.captures.options import CaptureOptions
from unrender.cli.arguments import Group, Option, Section, Style, options_of, parse
from unrender.cli.options import FitOptions, OutputOptions
from unrender.recipes.kinds import InputKind, InputName
from unrender.recipes.table import C, I, Recipe
from unrender.runs.read_options import NoOptions, ReadOptions, RunOptions, StartOptions

_FROM_CAPTURE = "from the capture"
BUDGET = ("steps", "max_seconds")
"""The settings that matter most, which are listed first."""

READING: dict[InputName, tuple[str, type[CaptureOptions | RunOptions | NoOptions]]] = {
    "capture": ("photos", CaptureOptions),
    "run": ("run to go on from", RunOptions),
    "capture|run": ("photos", StartOptions),
    "picture": ("picture", NoOptions),
    "mesh": ("mesh", NoOptions),
}
"""Heading and options of reading each kind of input."""

RARE = ("normal_maps_frame", "camera_axes", "principal_shift", "memory")
"""Fields that only ``--help-all`` shows, besides the settings of the method."""

STYLES: dict[str, Style] = {
    "steps": Style("N", summary="Number of steps; a larger number continues a finished fit"),
    "max_seconds": Style("S", summary="Seconds of training; alone, it replaces --steps"),
    "downscale": Style("K"),
    "center": Style("X Y Z", _FROM_CAPTURE, summary="Center of the region of interest, in the frame of the poses"),
    "radius": Style("R", _FROM_CAPTURE, summary="Half the side of the region of interest, in the units of the poses"),
    "up": Style("X Y Z|AXIS", _FROM_CAPTURE, summary='Upward direction in the frame of the poses: a vector, x to -z, or "cameras"'),
    "test_every": Style("N|RULE", summary="Hold out every N-th view, or by a rule such as llff"),
    "leave_out": Style("NAME...", "none", summary="Photos to do without, as in 031 '04*'"),
    "masks": Style(default=_FROM_CAPTURE, summary="Masks outline the object, leave pixels out (ignore), or do nothing (none)"),
    "camera_axes": Style(default=_FROM_CAPTURE),
    "normal_maps": Style("DIR", summary="Normal images, one for each view, as a prior"),
    "principal_shift": Style("X Y"),
    "memory": Style("BYTES", "half of the machine's", summary="Memory, as in 8GB, the images may take before a file keeps them"),
    "capture": Style("DIR", "where it was when it was fitted"),
    "mesh": Style("FILE"),
    "env": Style("FILE"),
}
"""How the fields of configurations and of reading look in a help page, where their types and texts do not say it."""


@dataclass(frozen=True)
class Filled(Generic[C]):
    """What the command line says about a fit."""

    input: Path
    config: C
    run: FitOptions
    reading: ReadOptions
    output: OutputOptions


def sections(recipe: Recipe[C, I], config: C) -> list[Section]:
    """Return the sections of a recipe's command line, with the values of a configuration as defaults."""
    return [
        Section("input", *_input(recipe.input)),
        Section(f"settings of {recipe.name}", type(config), config, {name: STYLES[name] for name in BUDGET}),
        _choices(recipe, config),
        Section("run", FitOptions),
        reading_section(recipe.input.name),
        Section("messages", OutputOptions),
    ]


def reading_section(name: InputName) -> Section:
    """Return the options of reading a kind of input."""
    title, reading = READING[name]
    return Section(title, reading, styles=STYLES)


def _input(kind: InputKind[I]) -> tuple[type[Any], None, dict[str, Style]]:
    style = Style(kind.name.upper(), positional=True, summary=kind.summary[:1].upper() + kind.summary[1:])
    return dataclasses.make_dataclass("InputArgument", [("input", Path)]), None, {"input": style}


def _choices(recipe: Recipe[C, I], config: C) -> Section:
    fields = [
        (choice.setting, Literal[tuple(choice.members)], dataclasses.field(default=choice.name_in(config)))  # pyright: ignore
        for choice in recipe.choices
    ]
    kind = dataclasses.make_dataclass("Choices", fields, namespace={"__doc__": ""})
    return Section("method", kind, styles={choice.setting: Style(summary=choice.summary) for choice in recipe.choices})


def parse_fit(recipe: Recipe[C, I], config: C, words: list[str]) -> Filled[C]:
    """Return what the command line says, starting from a configuration.

    Raises:
        UsageError: the command line is invalid.
    """
    given, config, _, run, reading, output = parse(sections(recipe, config), words, command=f"unrender fit {recipe.name}")
    return Filled(given.input, config, run, reading, output)


def flags_of(recipe: Recipe[C, I]) -> dict[str, Option]:
    """Return every option that a recipe has with any preset and any choice, by its names."""
    found: dict[str, Option] = {}
    for config in every_config(recipe):
        found |= {flag: option for option in options_of(sections(recipe, config)) if not option.style.positional for flag in option.flags}
    return found


def every_config(recipe: Recipe[C, I]) -> list[C]:
    """Return a configuration for each choice; presets differ in values only."""
    config = next(iter(recipe.presets.values()))
    return [config, *(recipe.choose(config, choice.setting, name) for choice in recipe.choices for name in choice.members)]


def help_groups(recipe: Recipe[C, I], config: C, *, everything: bool) -> tuple[list[Group], list[Group]]:
    """Return the groups of a help page in their order, and those that it leaves out."""
    groups = {section.title: section.groups() for section in sections(recipe, config)}
    given, settings, choices, run, reading, output = groups.values()
    first, *bundles = _effective(settings, recipe.idle)
    budget, others = _split(first, BUDGET)
    bundles = [others, *(dataclasses.replace(group, title=f"settings of {recipe.name}: {group.title}") for group in bundles)]
    rare: list[Group] = []
    if not everything:
        reading, rare = [_split(group, RARE)[1] for group in reading], [_split(group, RARE)[0] for group in reading]
    said = [*_untold(given), dataclasses.replace(budget, title="budget"), *_untold([*run, *choices, *reading, *output])]
    return ([*said, *bundles], []) if everything else (said, [*rare, *bundles])


def _effective(groups: list[Group], idle: tuple[str, ...]) -> list[Group]:
    """Return groups without the options that do nothing, and without groups that have no others."""
    kept = [
        dataclasses.replace(group, options=tuple(option for option in group.options if not set(option.path) & set(idle)))
        for group in groups
    ]
    return [group for group in kept if group.options]


def _split(group: Group, names: tuple[str, ...]) -> tuple[Group, Group]:
    """Return the options of some fields, and the others."""
    chosen = tuple(option for option in group.options if option.path[-1] in names)
    others = tuple(option for option in group.options if option not in chosen)
    return dataclasses.replace(group, summary="", options=chosen), dataclasses.replace(group, summary="", options=others)


def _untold(groups: list[Group]) -> list[Group]:
    """Return groups without the texts of their classes."""
    return [dataclasses.replace(group, summary="") for group in groups]
