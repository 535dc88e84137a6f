"""Words of other programs, answered with ours: nerfstudio, instant-ngp, Gaussian splatting, NeuS."""

from __future__ import annotations

_FIT = "unrender fit RECIPE INPUT"
_NO_VIEWER = (
    "there is no live viewer; a run's viewer.html shows its surface, its report.html all of it, and `unrender render RUN` writes a video"
)
_POSES = "for the poses of plain photos or of a video: unrender poses PHOTOS; `unrender fit RECIPE PHOTOS` solves them by itself"
_RESUME = f"a stopped fit resumes when the same command is given again: {_FIT} --out RUN"
NO_SPLATS = "`unrender fit nerf INPUT` fits new views, `unrender fit neus INPUT` a surface; there are no Gaussian splats"


def _by_word(*rows: tuple[str, str]) -> dict[str, str]:
    """Return the sentence of each word, from rows of several words and their sentence."""
    return {word: sentence for words, sentence in rows for word in words.split()}


COMMANDS: dict[str, str] = _by_word(
    ("train ns-train training optimize reconstruct run", f"to fit a scene: {_FIT}"),
    ("view viewer ns-viewer ns-view gui testbed", _NO_VIEWER),
    ("process-data ns-process-data process colmap colmap2nerf sfm", _POSES),
    ("download-data ns-download-data download", "`unrender demo` makes a scene by itself; nothing is downloaded"),
    ("test evaluate ns-eval metrics validate", "for scores of the held-out views: unrender eval RUN"),
    ("ns-render video screenshot", "for pictures and a video: unrender render RUN"),
    ("mesh ns-export extract marching-cubes tsdf poisson", "for the surface as a file: unrender export RUN"),
    ("resume continue", _RESUME),
    ("env version info", "to check this machine: unrender doctor"),
    ("install-cli ns-install-cli completions", "for completion in the shell: unrender completion bash"),
)
"""Commands of others and the sentence with ours."""

RECIPES: dict[str, str] = _by_word(
    ("vanilla-nerf nerf-pytorch", "nerf-mlp"),
    ("nerfacto instant-ngp ngp mipnerf mip-nerf tensorf zipnerf depth-nerfacto radiance", "nerf"),
    ("neus-facto neus2 volsdf monosdf neuralangelo bakedsdf unisurf sdf surface idr", "neus"),
)
"""Methods of others and the recipe that is most like them."""

SPLATS = ("splatfacto", "gaussian-splatting", "3dgs", "gs", "gsplat", "splat")

_OPTIONS: dict[str, str] = _by_word(
    ("--data --scene --source-path -s -i --input --path --case", f"the input needs no option: {_FIT}"),
    ("--max-num-iterations --n-steps --iterations --num-iterations --iters --max-steps", "use --steps N"),
    ("--output-dir --model-path --experiment-name --save-snapshot -o -m --output", "use --out DIR"),
    ("--load-dir --load-checkpoint --load-snapshot --resume --is-continue", _RESUME),
    ("--vis --viewer --gui --no-gui", f"{_NO_VIEWER}; --tensorboard writes curves"),
    ("--gpu --cuda --machine.device-type --num-devices", "use --device cuda or --device cpu"),
    ("--lr --learn-rate", "use --learning-rate X"),
    ("--batch-size --rays-per-batch --train-num-rays-per-batch", "--target-samples N sets the samples of a step"),
    ("--marching-cubes-res --mcube-resolution", "use --mesh-resolution N"),
    ("--downscale-factor --resolution -r", "use --downscale K"),
    ("--no-masks --no-mask --ignore-masks", "use --masks none"),
    ("--machine.seed", "use --seed N"),
    ("--max-time --time --timeout --time-budget", "use --max-seconds S"),
    ("--white-background --white-bkgd -w", "pictures of captures with masks have a white background already"),
    ("--eval --test-split", "views are held out by default: --test-every N"),
    ("--verbose -v", "a fit says what it does; --quiet silences it"),
    ("--force --yes -y -f", "use --overwrite"),
)
_OF_RUNS: dict[str, str] = _by_word(
    ("--load-config --load-dir --model-path -m --run --checkpoint", "the run needs no option: {command} RUN"),
    ("--output-path --output-dir -o --output", "use --out FILE"),
)


_OF_CONVERT: dict[str, str] = _by_word(
    ("--output --output-dir --output-path", "use --out DIR"),
    ("--format --type --output-type -t", "use --to LAYOUT"),
    ("--data --input --input-path -i", "the capture needs no option: {command} CAPTURE"),
)


def option_of(name: str, command: str) -> str:
    """Return the sentence about an option of another program; empty for a word that is not known.

    >>> option_of("--max_num_iterations", "unrender fit neus")
    'use --steps N'
    >>> option_of("--load-config", "unrender eval")
    'the run needs no option: unrender eval RUN'
    """
    plain = name.replace("_", "-")
    fits = command.startswith("unrender fit")
    if not fits and plain in _OF_RUNS and command.split()[-1] in ("eval", "render", "export"):
        return _OF_RUNS[plain].format(command=command)
    if command == "unrender convert" and plain in _OF_CONVERT:
        return _OF_CONVERT[plain].format(command=command)
    if plain == "--load-config":
        return "use --config RUN/run.json"
    if fits and plain.startswith(("--viewer.", "--pipeline.", "--machine.", "--trainer.")) and plain not in _OPTIONS:
        return f"settings have flat names; `{command} --help-all` lists them"
    recipe = command.split()[-1]
    return _OPTIONS.get(plain, "").replace("RECIPE", recipe) if fits else ""
