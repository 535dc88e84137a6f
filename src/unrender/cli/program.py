"""The command ``unrender``: its subcommands, their help pages, and error messages.

PyTorch, Warp and rich are imported by the commands that need them: help is fast, and ``unrender doctor`` works in a broken installation.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unrender.cli import foreign, help
from unrender.cli.arguments import Group, Section, UsageError, is_option, parse, unknown_option, value_of
from unrender.cli.errors import memory_sentence, system_sentence
from unrender.cli.options import (
    CheckOptions,
    CompletionOptions,
    ConvertOptions,
    DemoOptions,
    DoctorOptions,
    EvalOptions,
    ExportOptions,
    FitOptions,
    InsertOptions,
    LocateOptions,
    MaskOptions,
    OutputOptions,
    PhotographOptions,
    PosesOptions,
    RelightOptions,
    RenderOptions,
    StudyOptions,
)
from unrender.cli.terminal import Ending, print_error, print_json, replace_unknown_characters
from unrender.devices import DeviceError
from unrender.words import is_out_of_memory, suggestion

if TYPE_CHECKING:
    from unrender.recipes.table import C, I, Recipe

OVERVIEW = """\
unrender turns posed photos into relightable 3D, on any machine.

  unrender demo                        make a small scene, fit it, and compare the result with the truth
  unrender poses PHOTOS_OR_VIDEO       the camera poses of plain photos or of a video, as a capture
  unrender mask CAPTURE                masks of the object in all photos, with a contact sheet to check them
  unrender check CAPTURE               whether posed photos will work, and what is wrong with them
  unrender fit RECIPE INPUT            fit a scene to photos; the same command again resumes
  unrender eval RUN                    PSNR and SSIM of the held-out views; --truth measures the surface
  unrender render RUN                  pictures and a video along a camera path
  unrender relight RUN --env FILE      pictures and a video under another light
  unrender insert RUN --photo FILE     the object in a photo, with its shadow
  unrender locate RUN --photo FILE     the camera of a photo, found against the fitted scene
  unrender export RUN                  the surface with its material as PLY, OBJ or GLB
  unrender capture MESH --env FILE     photos of a mesh under a light, as a capture with the truth beside it
  unrender convert CAPTURE             a capture in the layout of Blender, nerfstudio, COLMAP, NeuS or LLFF
  unrender study STUDY                 encodings, ntk or fourier: a small experiment, explained on one page
  unrender doctor                      what this machine can do, and what is wrong with it
  unrender completion SHELL            completion for bash, zsh or fish

RECIPE is asset (a relightable mesh), mesh-pbr, material, light, deform (a template mesh), neus (a surface), nerf (a
radiance field), plenoxels, nerf-mlp (the original NeRF) or image (a picture in a network). INPUT is a folder in one of the
layouts of NeRF-synthetic, instant-ngp, nerfstudio, NeuS, COLMAP, LLFF and others, or plain photos or a video, whose poses
are then solved first; for image it is a picture.
RUN is the folder that `unrender fit` wrote.

Example:

  unrender fit neus photos --max-seconds 300
  unrender export runs/neus-photos --format glb

  unrender COMMAND --help              what a command takes
  unrender fit neus --help             what a recipe takes; --help-all lists every setting
  unrender --version

In Python: result = unrender.fit("neus", "photos", max_seconds=300); result.mesh().export("mesh.glb")
"""

_RESUMES = {
    **dict.fromkeys(("fit", "demo"), "; the same command resumes from the last checkpoint"),
    "poses": "; the same command goes on with the stage that was stopped",
    "capture": "; the same command goes on with the photos that are missing",
    "study": "; the same command goes on with the fit that was stopped",
    "mask": "; no mask was written, and the same command goes on with what another program made",
}
"""What follows an interruption, by command."""

_HELP = ("-h", "--help", "--help-all")


def wants_help(words: Sequence[str]) -> bool:
    """Tell whether a command line asks for a help page."""
    return any(word in _HELP for word in words)


def fit_command(words: Sequence[str]) -> Ending:
    """Run ``unrender fit RECIPE INPUT ...``."""
    from unrender.recipes.table import recipes

    table = recipes()
    if not words or words[0] in _HELP:
        print(fit_page(table))
        return Ending(0 if words else 2)
    name, rest = words[0], list(words[1:])
    recipe = _recipe(name, rest, table)
    if wants_help(rest):
        print(recipe_page(recipe, rest))
        return Ending(0)
    from unrender.cli.fit_options import flags_of, parse_fit

    command = f"unrender fit {name}"
    known = flags_of(recipe)
    for word in rest[: rest.index("--")] if "--" in rest else rest:
        if is_option(word) and word.split("=", 1)[0].replace("_", "-") not in known:
            raise unknown_option(word.split("=", 1)[0], known, command)
    preset, config = _start(recipe, rest)
    filled = parse_fit(recipe, config, rest)
    from unrender.cli.commands import fit_input

    named = {name: value for name, value in vars(filled.run).items() if name not in ("preset", "config")}
    return fit_input(recipe, preset, filled.config, filled.input, filled.reading, filled.output, **named)


def _recipe(name: str, rest: Sequence[str], table: Mapping[str, Recipe[Any, Any]]) -> Recipe[Any, Any]:
    """Return the recipe that a command line names.

    Raises:
        UsageError: there is none of that name.
    """
    if name in table:
        return table[name]
    swapped = next((word for word in rest if word in table), None)
    if swapped and (name.startswith("-") or Path(name).exists()):
        raise UsageError(f"the recipe comes first: unrender fit {swapped} {table[swapped].input.name.upper()}")
    if name.lower() in foreign.SPLATS:
        raise UsageError(f"there is no recipe {name!r}; {foreign.NO_SPLATS}")
    ours = foreign.RECIPES.get(name.lower())
    hint = f"{ours!r} is the most similar one: unrender fit {ours} INPUT" if ours in table else suggestion(name, table)
    raise UsageError(f"there is no recipe {name!r}; {hint}")


def _start(recipe: Recipe[C, I], words: Sequence[str]) -> tuple[str | None, C]:
    """Return the name of the preset, and the configuration that the options of the command line start from.

    Raises:
        UsageError: an unknown preset or choice.
    """
    from unrender.devices import select_device
    from unrender.recipes.settings import with_budget

    try:
        file, preset, device = value_of("--config", words), value_of("--preset", words), select_device(value_of("--device", words))
        if file is not None and preset is not None:
            raise UsageError("--config and --preset both say where the settings start; give one of them")
        preset, config = recipe.start(preset, device) if file is None else (None, _config_in(file, recipe))
        config = _chosen(recipe, config, words)
    except DeviceError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    # A budget given alone replaces the preset's; the parser fills in its value.
    if value_of("--steps", words) is not None:
        config = with_budget(config, steps=config.steps or 1)
    elif value_of("--max-seconds", words) is not None:
        config = with_budget(config, max_seconds=config.max_seconds or 1.0)
    return preset, config


def _config_in(file: str, recipe: Recipe[C, I]) -> C:
    """Return the configuration in the run.json of another run, and print what does not fit this version."""
    from unrender.runs.config_json import read_config

    reading = read_config(Path(file), recipe)
    for note in reading.notes:
        print(f"note: {note}", file=sys.stderr)
    return reading.config


def _chosen(recipe: Recipe[C, I], config: C, words: Sequence[str]) -> C:
    for choice in recipe.choices:
        member = value_of(f"--{choice.setting}", words)
        config = config if member is None else recipe.choose(config, choice.setting, member)
    return config


def fit_page(table: Mapping[str, Recipe[Any, Any]]) -> str:
    """Return the help page of ``unrender fit``."""
    lines = ["usage: unrender fit RECIPE INPUT [OPTIONS]", "", str(FitOptions.__doc__), "", "recipes:"]
    for recipe in table.values():
        lines += [f"  {recipe.name:6} {recipe.summary}", f"         {recipe.input.name.upper()}: {recipe.input.summary}"]
        lines += [f"         presets: {', '.join(recipe.presets)}"]
    lines += ["", "common options:"]
    lines += [
        "  --steps N            number of steps (default: of the preset); a larger number continues a finished fit",
        "  --max-seconds S      the best result within this training time instead; of both, the one used up first ends the fit",
        "  --out DIR            where the run goes (default: runs/RECIPE-INPUT)",
        "  --preset NAME        where all values start from (default: cpu or gpu)",
        "  --device DEVICE      cpu, cuda or cuda:1 (default: the first GPU, else the CPU)",
        "  --downscale K        average photos over K x K pixels",
    ]
    return "\n".join([*lines, "", f"`unrender fit {next(iter(table))} --help` lists what a recipe takes."])


def recipe_page(recipe: Recipe[C, I], words: Sequence[str]) -> str:
    """Return the help page of a recipe: the options most people need, or with ``--help-all`` every setting."""
    from unrender.cli.fit_options import help_groups

    # Without PyTorch nobody knows whether there is a GPU, so the page says whose defaults it shows.
    device = value_of("--device", words) or "cpu"
    preset = value_of("--preset", words) or ("cpu" if device == "cpu" else "gpu")
    try:
        config = _chosen(recipe, recipe.preset(preset), words)
    except ValueError as error:
        raise UsageError(str(error)) from None
    shown, hidden = help_groups(recipe, config, everything="--help-all" in words)
    command = f"unrender fit {recipe.name}"
    usage = f"{command} {recipe.input.name.upper()} [OPTIONS]"
    defaults = f"Defaults are those of the preset {preset}; there are {', '.join(recipe.presets)}."
    count = sum(len(group.options) for group in hidden)
    notes = [defaults, *([f"{count} more settings: {command} --help-all"] if hidden else [])]
    about = [f"{recipe.name}: {recipe.summary}. The same command again resumes a stopped fit, or writes missing outputs of a finished one."]
    return help.page(usage, about, shown, notes, known=hidden)


def command_page(kind: type[Any], command: str) -> str:
    """Return the help page of a command that takes the options of one class."""
    return sections_page([Section("options", kind), Section("messages", OutputOptions)], str(kind.__doc__), command)


def sections_page(sections: Sequence[Section], about: str, command: str) -> str:
    """Return the help page of a command other than ``fit``."""
    groups = [group for section in sections for group in section.groups()]
    plain = [Group(group.title, "", tuple(o for o in group.options if not o.style.positional)) for group in groups]
    given = tuple(option for group in groups for option in group.options if option.style.positional)
    inputs = [Group("input", "", given)] if given else []
    usage = " ".join([command, *(option.metavar for option in given), "[OPTIONS]"])
    return help.page(usage, [about], [*inputs, *(group for group in plain if group.options)])


def _options(kind: type[Any], words: Sequence[str], command: str) -> tuple[Any, OutputOptions] | None:
    """Return the options of a command; None after its help page was printed."""
    if wants_help(words):
        print(command_page(kind, command))
        return None
    options, output = parse([Section("options", kind), Section("messages", OutputOptions)], words, command=command)
    return options, output


def plain_command(name: str, kind: type[Any], run: Callable[[], Callable[..., Ending]]) -> Callable[[Sequence[str]], Ending]:
    """Return a command that takes the options of one class.

    Args:
        name: of the command.
        kind: of its options.
        run: imports and returns the function that it calls with them, so that help pages need no PyTorch.
    """

    def command(words: Sequence[str]) -> Ending:
        found = _options(kind, words, f"unrender {name}")
        if found is None:
            return Ending(0)
        options, output = found
        return run()(output, **vars(options))

    return command


def _commands():  # without an annotation, which cannot name a module, its functions are known to the type checker
    from unrender.cli import commands

    return commands


def _convert() -> Callable[..., Ending]:
    from unrender.cli.convert_command import convert

    return convert


def _mask_command() -> Callable[..., Ending]:
    from unrender.cli.mask_command import mask_photos

    return mask_photos


def _relight_command() -> Callable[..., Ending]:
    from unrender.cli.relight_command import relight_run

    return relight_run


def _insert_command() -> Callable[..., Ending]:
    from unrender.cli.insert_command import insert_object

    return insert_object


def _locate_command() -> Callable[..., Ending]:
    from unrender.cli.locate_command import locate_photo

    return locate_photo


def _capture_command() -> Callable[..., Ending]:
    from unrender.cli.capture_command import capture_mesh

    return capture_mesh


def _study_command() -> Callable[..., Ending]:
    from unrender.cli.study_command import run_study

    return run_study


def _poses_command() -> Callable[..., Ending]:
    from unrender.cli.poses_command import solve_command

    return solve_command


def check_command(words: Sequence[str]) -> Ending:
    """Run ``unrender check CAPTURE``."""
    from unrender.cli.fit_options import reading_section

    sections = [Section("options", CheckOptions), reading_section("capture"), Section("messages", OutputOptions)]
    if wants_help(words):
        print(sections_page(sections, str(CheckOptions.__doc__), "unrender check"))
        return Ending(0)
    options, reading, output = parse(sections, words, command="unrender check")
    from unrender.cli.check_command import check_folder

    return check_folder(output, reading, **vars(options))


def doctor_command(words: Sequence[str]) -> Ending:
    """Run ``unrender doctor``."""
    found = _options(DoctorOptions, words, "unrender doctor")
    if found is None:
        return Ending(0)
    from unrender.doctor import examine, report

    _, output = found
    checks = examine()
    good = all(check.good for check in checks)
    if not output.json:
        for check in checks:
            if not (output.quiet and check.good):
                print(f"{'OK' if check.good else '!!'}  {check.finding}" + (f"\n    {check.advice}" if check.advice else ""))
    return Ending(0 if good else 1, report(checks))


def completion_command(words: Sequence[str]) -> Ending:
    """Run ``unrender completion SHELL``."""
    if wants_help(words):
        print(command_page(CompletionOptions, "unrender completion"))
        return Ending(0)
    from unrender.cli.completion import script
    from unrender.recipes.table import recipes

    (options,) = parse([Section("options", CompletionOptions)], words, command="unrender completion")
    print(script(options.shell, recipes()))
    return Ending(0)


COMMANDS: dict[str, Callable[[Sequence[str]], Ending]] = {
    "demo": plain_command("demo", DemoOptions, lambda: _commands().run_demo),
    "mask": plain_command("mask", MaskOptions, _mask_command),
    "check": check_command,
    "fit": fit_command,
    "poses": plain_command("poses", PosesOptions, _poses_command),
    "eval": plain_command("eval", EvalOptions, lambda: _commands().evaluate_run),
    "render": plain_command("render", RenderOptions, lambda: _commands().render_run),
    "relight": plain_command("relight", RelightOptions, _relight_command),
    "insert": plain_command("insert", InsertOptions, _insert_command),
    "locate": plain_command("locate", LocateOptions, _locate_command),
    "export": plain_command("export", ExportOptions, lambda: _commands().export_run),
    "capture": plain_command("capture", PhotographOptions, _capture_command),
    "study": plain_command("study", StudyOptions, _study_command),
    "convert": plain_command("convert", ConvertOptions, _convert),
    "doctor": doctor_command,
    "completion": completion_command,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 is success, 1 an error or a fit without a result, 2 a wrong command line, 130 an interruption by Ctrl-C, 143 by SIGTERM.
    An expected error is one line; ``UNRENDER_TRACEBACK=1`` in the environment shows its traceback.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when PyTorch is loaded; threads that wait by spinning take cores from others
    words = list(sys.argv[1:] if words is None else words)
    replace_unknown_characters()
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    as_json = "--json" in words and not wants_help(words)
    try:
        if not words or words[0] in _HELP:
            print(OVERVIEW)
            return 0
        if words[0] == "--version":
            print(f"unrender {importlib.metadata.version('unrender')}")
            return 0
        ending = _command(words[0])(words[1:])
        if as_json:
            print_json({"command": words[0], "exit_code": ending.code, **ending.results})
        sys.stdout.flush()
        return ending.code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
        return 1
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        code, sentence = _explained(error, words[0])
        if os.environ.get("UNRENDER_TRACEBACK") == "1" and isinstance(error, Exception):
            raise
    if sentence:
        print_error(sentence)
    if as_json:
        print_json({"command": words[0], "exit_code": code, "error": sentence})
    return code


def _command(name: str) -> Callable[[Sequence[str]], Ending]:
    """Return a command by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    raise UsageError(f"there is no command {name!r}; {foreign.COMMANDS.get(name.lower()) or suggestion(name, COMMANDS)}")


def _explained(error: BaseException, command: str) -> tuple[int, str]:
    """Return the exit code and the sentence of an expected error; raise any other again."""
    if isinstance(error, SystemExit):
        return (error.code, "") if isinstance(error.code, int) else (0, "") if error.code is None else (1, str(error.code))
    if isinstance(error, KeyboardInterrupt):
        return 130, f"stopped{_RESUMES.get(command, '')}"
    if is_out_of_memory(error):
        return 1, memory_sentence(error, command)
    if isinstance(error, ImportError):
        return 1, f"{_one_line(error)}; `unrender doctor` shows what the installation lacks"
    if isinstance(error, OSError):
        return 1, " ".join(system_sentence(error).split())
    if isinstance(error, ValueError):
        return 2 if isinstance(error, UsageError | DeviceError) else 1, _one_line(error)
    raise error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
