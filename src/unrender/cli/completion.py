"""Scripts that complete commands, recipes, options and names in a shell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unrender.cli.arguments import Option, Section, options_of
from unrender.cli.fit_options import flags_of, reading_section
from unrender.cli.options import (
    CheckOptions,
    ConvertOptions,
    DemoOptions,
    DoctorOptions,
    EvalOptions,
    ExportOptions,
    InsertOptions,
    LocateOptions,
    MaskOptions,
    OutputOptions,
    PhotographOptions,
    PosesOptions,
    RelightOptions,
    RenderOptions,
    Shell,
    StudyOptions,
)
from unrender.cli.values import choices
from unrender.recipes.table import Recipe

_KINDS: dict[str, type[Any]] = {
    "demo": DemoOptions,
    "poses": PosesOptions,
    "mask": MaskOptions,
    "capture": PhotographOptions,
    "check": CheckOptions,
    "eval": EvalOptions,
    "relight": RelightOptions,
    "render": RenderOptions,
    "insert": InsertOptions,
    "locate": LocateOptions,
    "export": ExportOptions,
    "convert": ConvertOptions,
    "study": StudyOptions,
    "doctor": DoctorOptions,
}


def tables(recipes: Mapping[str, Recipe[Any, Any]]) -> dict[str, dict[str, Option]]:
    """Return the options of every command by their names; those of a recipe under ``fit NAME``."""
    sections = {name: [Section("", kind), Section("", OutputOptions)] for name, kind in _KINDS.items()}
    sections["check"].append(reading_section("capture"))
    found = {name: {flag: option for option in options_of(some) for flag in option.flags} for name, some in sections.items()}
    found = {name: {flag: o for flag, o in table.items() if not o.style.positional} for name, table in found.items()}
    return found | {f"fit {name}": flags_of(recipe) for name, recipe in recipes.items()}


def script(shell: Shell, recipes: Mapping[str, Recipe[Any, Any]]) -> str:
    """Return the completion script of a shell."""
    found = tables(recipes)
    commands = ["fit", *_KINDS, "completion"]
    if shell == "fish":
        return _fish(commands, list(recipes), found)
    text = _bash(commands, list(recipes), found)
    return text if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{text}"


def _bash(commands: list[str], recipes: list[str], found: Mapping[str, Mapping[str, Option]]) -> str:
    lines = [
        '# unrender: eval "$(unrender completion bash)"',
        "_unrender() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}" words=""',
        '    if [ "$COMP_CWORD" -eq 1 ]; then words="' + " ".join([*commands, "--help", "--version"]) + '"',
        '    elif [ "$command" = fit ] && [ "$COMP_CWORD" -eq 2 ]; then words="' + " ".join([*recipes, "--help"]) + '"',
        '    elif [ "$command" = completion ]; then words="bash zsh fish"',
        "    else",
        '        [ "$command" = fit ] && command="fit ${COMP_WORDS[2]}"',
        '        case "$command:$before" in',
    ]
    for command, table in found.items():
        for flag, option in table.items():
            if choices(option.kind):
                lines.append(f"            '{command}:{flag}') words=\"{' '.join(choices(option.kind))}\";;")
    lines += ["        esac", '        if [ -z "$words" ] && [ "${word#-}" != "$word" ]; then case "$command" in']
    lines += [f"            '{command}') words=\"{' '.join([*table, '--help'])}\";;" for command, table in found.items()]
    lines += [
        "        esac; fi",
        "    fi",
        '    COMPREPLY=( $(compgen -W "$words" -- "$word") )',
        "}",
        "complete -o bashdefault -o default -F _unrender unrender",
    ]
    return "\n".join(lines)


def _fish(commands: list[str], recipes: list[str], found: Mapping[str, Mapping[str, Option]]) -> str:
    lines = ["# unrender: unrender completion fish > ~/.config/fish/completions/unrender.fish"]
    lines += [f"complete -c unrender -f -n __fish_use_subcommand -a '{' '.join(commands)}'"]
    lines += ["complete -c unrender -f -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'"]
    unnamed = f"__fish_seen_subcommand_from fit; and not __fish_seen_subcommand_from {' '.join(recipes)}"
    lines += [f"complete -c unrender -f -n '{unnamed}' -a '{' '.join(recipes)}'"]
    for command, table in found.items():
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.split())
        for flag, option in table.items():
            values = f" -x -a '{' '.join(choices(option.kind))}'" if choices(option.kind) else "" if option.kind is bool else " -r"
            text = option.summary.replace("``", "").replace("'", "’").rstrip(".")
            lines.append(f"complete -c unrender -n '{seen}' -l {flag[2:]}{values} -d '{text}'")
    return "\n".join(lines)
