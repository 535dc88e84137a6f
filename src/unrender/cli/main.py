"""The command ``unrender``: its subcommands, their arguments, and error messages.

PyTorch, Warp, tyro and rich are imported by the commands that need them: help is fast, and ``unrender doctor`` works in a broken
installation.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unrender.cli.arguments import UsageError, parse, value_of
from unrender.devices import DeviceError, select_device
from unrender.doctor import examine
from unrender.words import suggestion

if TYPE_CHECKING:
    from unrender.recipes.table import C, I, Recipe

HELP = """\
unrender: turns posed photos into a surface and a radiance field, on any machine.

  unrender demo                        make a small scene, fit it, compare with the truth: runs/demo/report.html
  unrender fit RECIPE INPUT            fit a scene to a folder of posed photos; the same command again resumes
  unrender eval RUN                    PSNR and SSIM of the held-out views
  unrender render RUN                  pictures and a video along a camera path
  unrender export RUN                  the surface with its material as PLY, OBJ or GLB
  unrender doctor                      what this machine can do, and what is wrong with it

RECIPE is nerf (a radiance field) or neus (a surface). Their INPUT is a folder in one of the layouts of NeRF-synthetic, instant-ngp,
nerfstudio or NeuS. RUN is the folder that `unrender fit` wrote.

  unrender COMMAND --help              everything a command takes
  unrender fit neus --help             everything a recipe takes
  unrender --version

In Python: capture = unrender.load("capture"); result = unrender.fit("neus", capture, max_seconds=120); result.mesh().export("mesh.glb")
"""


def fit_command(words: Sequence[str]) -> int:
    """Run ``unrender fit RECIPE INPUT ...``."""
    from unrender.recipes.table import recipes

    table = recipes()
    if not words or words[0] in ("-h", "--help"):
        print(_fit_help(table))
        return 0 if words else 2
    from unrender.cli.fit_options import execute_fit, fit_options

    name, rest = words[0], list(words[1:])
    recipe, preset, config = _before_the_options(name, rest, table)
    return execute_fit(recipe, preset, parse(fit_options(recipe, config), rest, command=f"unrender fit {name}"))


def _before_the_options(name: str, rest: Sequence[str], table: Mapping[str, Recipe[C, I]]) -> tuple[Recipe[C, I], str, C]:
    """Return the recipe, and the preset and configuration that the options of the command line start from.

    Raises:
        UsageError: an unknown recipe, preset or choice.
    """
    from unrender.recipes.settings import with_budget
    from unrender.recipes.table import find_recipe

    swapped = next((word for word in rest if word in table), None)
    if name not in table and swapped and (name.startswith("-") or Path(name).exists()):
        raise UsageError(f"the recipe comes first: unrender fit {swapped} {table[swapped].input.name.upper()}")
    try:
        recipe = find_recipe(name, table)
        preset, config = recipe.start(value_of("--preset", rest), select_device(value_of("--device", rest)))
        for choice in recipe.choices:
            member = value_of(f"--{choice.setting}", rest)
            config = config if member is None else recipe.choose(config, choice.setting, member)
    except DeviceError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    # A budget given alone replaces the preset's; the parser fills in its value.
    if value_of("--steps", rest) is not None:
        config = with_budget(config, steps=config.steps or 1)
    elif value_of("--max-seconds", rest) is not None:
        config = with_budget(config, max_seconds=config.max_seconds or 1.0)
    return recipe, preset, config


def _fit_help(table: Mapping[str, Recipe[C, I]]) -> str:
    from unrender.cli.options import FitOptions

    lines = ["usage: unrender fit RECIPE INPUT [OPTIONS]", "", str(FitOptions.__doc__), "", "recipes:"]
    for recipe in table.values():
        lines += [f"  {recipe.name:6} {recipe.summary}", f"         {recipe.input.name.upper()}: {recipe.input.summary}"]
        lines += [f"         presets: {', '.join(recipe.presets)}"]
    lines += ["", "common options:"]
    lines += [
        "  --out DIR            where the run goes (default: runs/RECIPE-INPUT)",
        "  --steps N            number of steps (default: of the preset); a larger number continues a finished fit",
        "  --max-seconds S      the best result within this much training time instead; of both, the one used up first ends the fit",
        "  --preset NAME        where all values start from (default: cpu or gpu)",
        "  --device DEVICE      cpu, cuda or cuda:1 (default: the first GPU, else the CPU)",
        "  --downscale K        average photos over K x K pixels",
    ]
    return "\n".join([*lines, "", f"`unrender fit {next(iter(table))} --help` lists everything a recipe takes."])


def eval_command(words: Sequence[str]) -> int:
    """Run ``unrender eval RUN ...``."""
    from unrender.cli.options import EvalOptions

    options: EvalOptions = parse(EvalOptions, words, command="unrender eval")
    return options.execute()


def render_command(words: Sequence[str]) -> int:
    """Run ``unrender render RUN ...``."""
    from unrender.cli.options import RenderOptions

    options: RenderOptions = parse(RenderOptions, words, command="unrender render")
    return options.execute()


def export_command(words: Sequence[str]) -> int:
    """Run ``unrender export RUN ...``."""
    from unrender.cli.options import ExportOptions

    options: ExportOptions = parse(ExportOptions, words, command="unrender export")
    return options.execute()


def demo_command(words: Sequence[str]) -> int:
    """Run ``unrender demo ...``."""
    from unrender.cli.options import DemoOptions

    options: DemoOptions = parse(DemoOptions, words, command="unrender demo")
    return options.execute()


def doctor_command(words: Sequence[str]) -> int:
    """Run ``unrender doctor``."""
    from unrender.cli.options import DoctorOptions

    parse(DoctorOptions, words, command="unrender doctor")
    checks = examine()
    for check in checks:
        print(f"{'OK' if check.good else '!!'}  {check.finding}" + (f"\n    {check.advice}" if check.advice else ""))
    return 0 if all(check.good for check in checks) else 1


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": demo_command,
    "fit": fit_command,
    "eval": eval_command,
    "render": render_command,
    "export": export_command,
    "doctor": doctor_command,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 is success, 1 an error or a fit without a result, 2 a wrong command line, 130 an interruption.
    An expected error is one line; ``UNRENDER_TRACEBACK=1`` in the environment shows its traceback.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when PyTorch is loaded; threads that wait by spinning take cores from others
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"unrender {importlib.metadata.version('unrender')}")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise UsageError(f"there is no command {words[0]!r}; {suggestion(words[0], COMMANDS)}")
        return COMMANDS[words[0]](words[1:])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return _failed("stopped; the same command resumes from the last checkpoint", 130)
    except (UsageError, DeviceError) as error:
        return _failed(error, 2)
    except (ValueError, OSError, MemoryError) as error:
        return _failed(error, 1)
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        return _failed(f"{str(error).splitlines()[0]} Try --downscale 2 or a smaller --target-samples.", 1)


def _failed(error: object, code: int) -> int:
    if os.environ.get("UNRENDER_TRACEBACK") == "1" and isinstance(error, BaseException):
        raise error
    text = " ".join(str(error).split()) or type(error).__name__
    from rich.console import Console

    Console(stderr=True).print(f"unrender: error: {text}", highlight=False, markup=False, soft_wrap=True)
    return code
