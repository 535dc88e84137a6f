"""The words of a command line: options and their values, help pages, other programs' words, completion, errors, JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import inspect
import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

import unrender.api
from tiny_captures import write_blender
from unrender.captures.load import load_capture
from unrender.captures.options import CaptureOptions
from unrender.cli import completion, foreign
from unrender.cli.arguments import Section, UsageError, options_of, parse
from unrender.cli.errors import memory_sentence, system_sentence
from unrender.cli.fit_options import every_config, flags_of, help_groups, sections
from unrender.cli.options import FitOptions, OutputOptions
from unrender.cli.program import COMMANDS, main, recipe_page
from unrender.cli.terminal import Ending
from unrender.cli.values import convert, described
from unrender.recipes.table import NEUS, recipes
from unrender.words import is_out_of_memory

Weight = float | tuple[float, float, float, float]


@dataclass(frozen=True)
class Inner:
    """A bundle."""

    weight: Weight = 0.5
    """A number, or a ramp."""
    layers: tuple[int, ...] = (8, 8)
    """Any number of integers."""


@dataclass(frozen=True)
class Outer:
    """Options of everything."""

    count: int = 3
    """How many."""
    name: str | None = None
    """Any text."""
    axis: tuple[float, float, float] | Literal["x", "-y"] | None = None
    """A vector or a name."""
    smooth: bool = True
    """A switch that is on."""
    dry: bool = False
    """A switch that is off."""
    stages: tuple[tuple[float, int], ...] = ((0.0, 8),)
    """Pairs."""
    folder: Path = Path("here")
    """A path."""
    inner: Inner = field(default=Inner())


@dataclass(frozen=True)
class Output:
    """Another section."""

    out: Path = Path("there")
    """A path."""


def filled(*words: str) -> Outer:
    (outer,) = parse([Section("options", Outer)], words, command="unrender test")
    return outer


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--count", "5"], {"count": 5}),
        (["--count=5", "--count", "6"], {"count": 6}),
        (["--no-smooth", "--dry"], {"smooth": False, "dry": True}),
        (["--axis", "1", "-2", "3e1"], {"axis": (1.0, -2.0, 30.0)}),
        (["--axis", "-y"], {"axis": "-y"}),
        (["--name", "none"], {"name": "none"}),
        (["--axis", "none"], {"axis": None}),
        (["--weight", "-1", "--count", "2"], {"count": 2, "inner": Inner(weight=-1.0)}),
        (["--weight", "0", "1", "0.5", "1"], {"inner": Inner(weight=(0.0, 1.0, 0.5, 1.0))}),
        (["--layers", "3", "4", "5"], {"inner": Inner(layers=(3, 4, 5))}),
        (["--stages", "0", "8", "0.5", "16"], {"stages": ((0.0, 8), (0.5, 16))}),
        (["--folder", "データ"], {"folder": Path("データ")}),
    ],
)
def test_words_become_the_values_of_fields(words: list[str], changes: dict[str, Any]) -> None:
    assert filled(*words) == dataclasses.replace(Outer(), **changes)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--count", "many"], "--count is 'many'; it must be an integer (see `unrender test --help`)"),
        (["--count"], "--count has no value; it must be an integer (see `unrender test --help`)"),
        (["--count", "--dry"], "--count has no value; it must be an integer (see `unrender test --help`)"),
        (["--axis", "1", "2"], "--axis is '1 2'; it must be x or -y or 3 numbers (see `unrender test --help`)"),
        (["--stages", "0", "8", "1"], "--stages is '0 8 1'; it must be groups of 2 numbers (see `unrender test --help`)"),
        (["--dry=1"], "--dry takes no value; use --dry or --no-dry"),
        (["--cuont", "3"], "`unrender test` has no option --cuont; did you mean --count?"),
        (["--cou", "3"], "`unrender test` has no option --cou; did you mean --count?"),
        (["more"], "`unrender test` does not understand 'more'; `unrender test --help` shows how it is used"),
    ],
)
def test_wrong_words_are_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        filled(*words)
    assert str(error.value) == sentence


def test_a_value_may_be_any_of_its_types() -> None:
    assert convert(int | None, ["none"]) is None and convert(Weight, ["2"]) == 2.0
    assert described(tuple[int, ...]) == "integers" and described(Path | None) == "a path"
    with pytest.raises(ValueError, match=r"it must be a number or 4 numbers$"):
        convert(Weight, ["1", "2"])


def test_o_is_short_for_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_blender(tmp_path / "photos")
    for name in ("long", "short"):
        option = "--out" if name == "long" else "-o"
        assert main(["convert", str(tmp_path / "photos"), "--to", "nerfstudio", option, str(tmp_path / name)]) == 0
    assert (tmp_path / "long" / "transforms.json").read_bytes() == (tmp_path / "short" / "transforms.json").read_bytes()
    capfd.readouterr()
    lists = [Section("options", Outer), Section("output", Output)]
    assert parse(lists, ["--layers", "3", "4", "-o", "x"], command="unrender test")[1] == Output(Path("x")), "it ends a list"
    assert parse(lists, ["--axis", "-y", "-o", "x"], command="unrender test")[0] == Outer(axis="-y")
    assert "`unrender doctor` has no option -o" in sentence_about(["doctor", "-o", "x"], capfd)


def test_options_of_fit_are_arguments_in_python() -> None:
    """One vocabulary: the same names and defaults on the command line, in ``fit`` and in ``load``."""
    ours = inspect.signature(unrender.api.fit).parameters
    shown = {option.path[-1]: option.default for option in options_of([Section("run", FitOptions)])}
    only_here = {"tensorboard"}  # an observer in Python
    for name, default in shown.items():
        if name not in only_here:
            assert name in ours and ours[name].default == default, name
    reading = {name: each.default for name, each in inspect.signature(load_capture).parameters.items() if name != "path"}
    assert reading == {each.name: each.default for each in dataclasses.fields(CaptureOptions)}
    assert {"--steps", "--max-seconds"} <= flags_of(NEUS).keys() and {"steps", "max_seconds"} <= ours.keys()


@pytest.mark.parametrize("name", ["nerf", "neus"])
def test_every_option_has_a_text_and_one_meaning(name: str) -> None:
    recipe = recipes()[name]
    for config in every_config(recipe):
        options = options_of(sections(recipe, config))
        flags = [flag for option in options for flag in option.flags]
        assert len(flags) == len(set(flags))
        assert [option.flag for option in options if not option.summary] == []


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("name", ["nerf", "neus"])
def test_the_short_help_page_fits_on_a_screen(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    recipe = recipes()[name]
    page, everything = recipe_page(recipe, []), recipe_page(recipe, ["--help-all"])
    lines = page.splitlines()
    assert len(lines) <= 60 and max(map(len, everything.splitlines())) <= min(columns, 110)
    assert "``" not in everything and ":class:" not in everything
    assert [line.split()[0] for line in lines if line.startswith("  --")][:2] == ["--steps", "--max-seconds"]
    shown, hidden = help_groups(recipe, recipe.presets["cpu"], everything=False)
    assert f"{sum(len(group.options) for group in hidden)} more settings" in page
    assert all(f"  {option.flag[:2]}" in everything for group in (*shown, *hidden) for option in group.options)


def sentence_about(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    return err.strip()


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["train", "nerfacto"], "unrender fit RECIPE INPUT"),
        (["ns-train"], "unrender fit RECIPE INPUT"),
        (["view"], "there is no live viewer"),
        (["process-data", "images"], "unrender poses PHOTOS"),
        (["ns-eval"], "unrender eval RUN"),
        (["ns-export"], "unrender export RUN"),
        (["fit", "nerfacto", "x"], "unrender fit nerf INPUT"),
        (["fit", "neus-facto", "x"], "unrender fit neus INPUT"),
        (["fit", "splatfacto", "x"], "there are no Gaussian splats"),
        (["fit", "nerf", "--data", "x"], "the input needs no option: unrender fit nerf INPUT"),
        (["fit", "nerf", "x", "--max-num-iterations", "3"], "use --steps N"),
        (["fit", "nerf", "x", "--max_num_iterations", "3"], "use --steps N"),
        (["fit", "neus", "x", "--output-dir", "y"], "use --out DIR"),
        (["fit", "neus", "x", "--load-config", "y"], "use --config RUN/run.json"),
        (["fit", "neus", "x", "--vis", "viewer"], "there is no live viewer"),
        (["fit", "neus", "x", "--no-masks"], "use --masks none"),
        (["fit", "neus", "x", "-m", "y"], "use --out DIR"),
        (["fit", "neus", "x", "--pipeline.model.sdf", "y"], "settings have flat names"),
        (["eval", "--load-config", "config.yml"], "unrender eval RUN"),
        (["convert", "x", "--output", "y"], "use --out DIR"),
        (["convert", "-i", "x"], "the capture needs no option: unrender convert CAPTURE"),
        (["fit", "neus", "x", "--config", "a.json", "--preset", "cpu"], "give one of them"),
    ],
)
def test_words_of_other_programs_are_answered_with_ours(words: list[str], ours: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert ours in sentence_about(words, capfd)


def test_answers_name_commands_and_options_that_exist() -> None:
    text = " ".join([*foreign.COMMANDS.values(), *foreign._OPTIONS.values(), foreign.NO_SPLATS])
    known = set(flags_of(NEUS)) | {"--out"}
    assert {word.strip("`;,") for word in text.split() if word.startswith("--")} <= known
    assert set(foreign.RECIPES.values()) <= recipes().keys() and not foreign.COMMANDS.keys() & COMMANDS.keys()
    assert not set(foreign._OPTIONS) & known


def test_no_arguments_print_an_overview_with_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capfd.readouterr().out
    assert "unrender fit neus photos" in out and all(f"unrender {command}" in out for command in COMMANDS)
    assert main(["help", "export"]) == 0 and "--format" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("line", "point", "expected"),
    [
        ("unrender ex", 1, ["export"]),
        ("unrender fit ne", 2, ["nerf", "nerf-mlp", "neus"]),
        ("unrender fit neus x --max-s", 4, ["--max-seconds"]),
        ("unrender fit neus x --field ", 5, ["grid", "hash"]),
        ("unrender export r --format g", 4, ["glb"]),
        ("unrender completion f", 2, ["fish"]),
    ],
)
def test_bash_completes_commands_options_and_names(line: str, point: int, expected: list[str]) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    words = " ".join(f"'{word}'" for word in line.split(" "))
    script = f'{completion.script("bash", recipes())}\nCOMP_WORDS=({words}); COMP_CWORD={point}; _unrender; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run([bash, "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_other_shells_get_every_option_too() -> None:
    fish, zsh = completion.script("fish", recipes()), completion.script("zsh", recipes())
    assert "-l max-seconds" in fish and "bashcompinit" in zsh
    for flag in flags_of(NEUS):
        assert f"-l {flag[2:]} " in fish and flag in zsh


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (SystemExit("no such thing"), 1, "no such thing"),
        (SystemExit(3), 3, ""),
        (SystemExit(None), 0, ""),
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError(), 1, "memory is used up; use --downscale 2"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.50 GiB."), 1, "memory of the GPU is used up: 2.50 GB more were needed"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes. Error code 12"), 1,
         "memory is used up: 8.0 GB more were needed; use --downscale 2"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), 1, "there is no permission for runs/a; change its permissions"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 1, "the disk is full at runs/a; free some space"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full; free some space"),
        (ImportError("No module named 'scipy'"), 1, "No module named 'scipy'; `unrender doctor` shows"),
        (ValueError("wrong\n  thing"), 1, "wrong thing"),
    ],
)  # fmt: skip
def test_errors_have_an_exit_code_and_one_sentence(
    error: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(words: object) -> Ending:
        raise error

    monkeypatch.setitem(COMMANDS, "fit", fails)
    assert main(["fit"]) == code
    err = capfd.readouterr().err
    assert err.startswith(f"unrender: error: {sentence}") if sentence else err == ""
    assert err.count("\n") <= 1 and "Traceback" not in err
    assert main(["fit", "--json"]) == code
    assert json.loads(capfd.readouterr().out)["exit_code"] == code


def test_an_error_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: object) -> Ending:
        raise RuntimeError("shapes do not match")

    monkeypatch.setitem(COMMANDS, "fit", fails)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["fit"])
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert memory_sentence(MemoryError(), "export") == "memory is used up; use a smaller --resolution"
    assert system_sentence(OSError("a sentence of ours")) == "a sentence of ours"


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1251", "cp1252"])
def test_characters_that_a_code_page_lacks_are_replaced(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert main(["fit", "データ", "x"]) == 2 and main(["fit", "neus", "--help-all"]) == 0
    sys.stderr.flush()
    assert isinstance(sys.stderr, io.TextIOWrapper)
    assert b"there is no recipe '???'" in sys.stderr.buffer.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_pipe_that_nobody_reads_is_no_traceback() -> None:
    head = subprocess.Popen([sys.executable, "-c", "pass"], stdin=subprocess.PIPE)
    assert head.stdin is not None
    head.wait()
    done = subprocess.run(
        [sys.executable, "-m", "unrender", "fit", "neus", "--help-all"], stdout=head.stdin, stderr=subprocess.PIPE, check=False
    )
    with contextlib.suppress(BrokenPipeError):
        head.stdin.close()
    assert b"Traceback" not in done.stderr


def test_pages_and_typos_need_no_pytorch() -> None:
    script = (
        "import sys; from unrender.cli import main\n"
        "for words in (['fit', '--help'], ['fit', 'neus', '--help'], ['fit', 'neus', '--help-all'], ['export', '--help'], ['fti'],\n"
        "              ['fit', 'nues', 'x'], ['fit', 'neus', 'x', '--stpes', '3'], ['completion', 'bash']): main(words)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'warp', 'numpy', 'rich')))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT from outside")
def test_ctrl_c_while_a_command_starts_is_one_line() -> None:
    script = (
        "import os, signal, sys; import unrender.cli.program as m\n"
        "m.COMMANDS['fit'] = lambda words: os.kill(os.getpid(), signal.SIGINT) or __import__('time').sleep(9)\n"
        "sys.exit(m.main(['fit']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        130,
        "unrender: error: stopped; the same command resumes from the last checkpoint\n",
    )


def test_doctor_prints_json(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from unrender import doctor

    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Check(True, "a"), doctor.Check(False, "b", "do c")])
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capfd.readouterr().out)
    assert found["checks"] == [{"good": True, "finding": "a", "advice": ""}, {"good": False, "finding": "b", "advice": "do c"}]
    assert found["exit_code"] == 1 and found["versions"]["python"]
    assert main(["doctor", "--quiet"]) == 1 and capfd.readouterr().out == "!!  b\n    do c\n"


def test_doctor_says_that_libraries_for_a_gpu_sit_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from unrender import doctor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(doctor, "_cuda_wheels", lambda: 2_451_000_000)
    check = doctor._gpu_in_torch()
    assert check.good and "(2.5 GB) are never used" in check.finding and "https://download.pytorch.org/whl/cpu" in check.advice


def test_every_option_is_on_the_page() -> None:
    page = (Path(__file__).parents[1] / "docs" / "command_line.md").read_text(encoding="utf-8")
    options = {flag for flag, option in completion.tables(recipes())["export"].items()} | {
        option.flag for option in options_of([Section("", FitOptions), Section("", CaptureOptions), Section("", OutputOptions)])
    }
    assert sorted(flag for flag in options if f"`{flag}" not in page and not flag.startswith("--no-")) == []
    assert all(f"unrender {command}" in page for command in COMMANDS)
