"""What a command line may say: names that do not exist, and what Hydra refuses, are told with what to write."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness import __version__
from harness.overrides import UNCHECKED, causes, listed, misspelt, unknown_keys, unreadable
from harness.resources import resource
from tests.grids import HELP, ROOT, harness, python, told

CONF = resource("conf")


def test_misspelt_names_are_told_at_once_with_the_nearest(tmp_path: Path) -> None:
    assert told(
        tmp_path, "+sweep=suport_tone", "quantisation=int8", "quantization=int8,gtpq", "adaptation.rnk=3",
        "measure.latency.requsts=3", "sed=1", "model=llama",
    ) == [
        "sweep=suport_tone: no such choice; did you mean support_tone? (python -m harness --help)",
        "quantisation: no such group or key; did you mean quantization? (python -m harness --help)",
        "quantization=gtpq: no such choice; did you mean gptq? (python -m harness --help)",
        "adaptation.rnk: no such knob; did you mean adaptation.rank? (python -m harness --help)",
        "measure.latency.requsts: no such knob; did you mean measure.latency.requests? (python -m harness --help)",
        "sed: no such group or key; did you mean seed? (python -m harness --help)",
        "model=llama: no such choice; there is dummy_1b, dummy_8b, dummy_tiny, gguf, hf, smollm2_135m "
        "(python -m harness --help)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("+sweep=support_tone,tool_json", "+sweep=support_tone,tool_json: one sweep a run; run once for each"),
        ("hydra.mode=RUN", "hydra.mode=RUN: leave it out; a single cell is a grid too"),
        ("hydra.mode=MULTIRUN", None),
        ("+sweep=[support_tone,tool_json]", "+sweep=[support_tone,tool_json]: one sweep a run; run once for each"),
        (
            "hydra.run.dir=x",
            "hydra.run.dir=x: has no effect; a run goes to hydra.sweep.dir=DIR, or into a folder of outputs=DIR",
        ),
        (
            "hydra.job.env_set.A=1",
            "hydra.job.env_set.A=1: has no effect; set variables before the command, as "
            "NAME=VALUE python -m harness ...",
        ),
        ("hydra.searchpath=[file:///none]", "hydra.searchpath=file:///none: no such folder"),
        ("--dryrun", "no such option --dryrun; did you mean --dry-run? (python -m harness --help)"),
        ("--dry-run=true", "no such option --dry-run=true; did you mean --dry-run? (python -m harness --help)"),
        ("-dry", "no such option -dry; did you mean --dry-run? (python -m harness --help)"),
        ("outputs='~/runs'", "outputs='~/runs': is a folder called ~ here; write \"outputs=$HOME/runs\""),
        ('hydra.sweep.dir="~"', 'hydra.sweep.dir="~": is a folder called ~ here; write "hydra.sweep.dir=$HOME"'),
        ("store='~mine'", None),
        (
            "suite.system=You route tickets, and answer briefly.",
            "suite.system=You route tickets, and answer briefly.: is cut at its commas; write "
            "'suite.system=\"You route tickets, and answer briefly.\"', and of several texts quote each",
        ),
        ('suite.system="You route tickets, and answer briefly."', None),
        ('suite.system="You route, so","You answer, so"', None),
        ("suite.asked=Ticket,Email", None),
        ("suite.system='~/'", None),
        ("--multi", None),
        ("-cjob", None),
        ("--experimental-rerun", "--experimental-rerun: knows no grids; give the run's own command again"),
        ("suite=2026", "suite=2026: is read as no text, so no choice can be called so; rename its file"),
        ("model=-1,hf", "model=-1,hf: is read as no text, so no choice can be called so; rename its file"),
        ("profile=true", "profile=true: is read as no text, so no choice can be called so; rename its file"),
    ],
)
def test_what_would_be_no_grid_is_told(argument: str, line: str | None) -> None:
    assert misspelt([argument], CONF) == ([line] if line else [])


def test_own_choices_that_cannot_be_read_are_told_before_hydra_reads_them(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    texts = {
        "price/latin.yaml": b"name: \xe9", "price/list.yaml": b"- a", "quantization/cut.yaml": b"rank: [",
        "suite/deep.yaml": b"[" * 3000, "price/empty.yaml": b"", "elsewhere/not_ours.yaml": b"[",
    }  # fmt: skip
    for name, text in texts.items():
        (conf / name).parent.mkdir(parents=True, exist_ok=True)
        (conf / name).write_bytes(text)
    lines = told(tmp_path, "price=latin")
    assert [line.partition(": ")[0] for line in lines] == [str(conf / name) for name in list(texts)[:4]]
    assert all(line.endswith("; mend it or move it away") for line in lines)


def test_misspelt_names_are_told_beside_a_search_path() -> None:
    (line,) = misspelt([f"hydra.searchpath=[{ROOT}/tests/conf]", "quantization=dis"], CONF)
    assert line == f"quantization=dis: no such choice; did you mean dies? {HELP}"


@pytest.mark.parametrize("text", [b"name: [", b"name: a\nname: b", b"a:\n\tb: 1", b"name: \xe9"])
@pytest.mark.parametrize("name", ["config.yaml", "suite/mine.yaml"])
def test_a_slip_in_the_harness_own_folder_is_told(tmp_path: Path, name: str, text: bytes) -> None:
    """Which is the working directory's too, for those who work on the harness itself."""
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / name).write_bytes(text)
    (line,) = unreadable([], tmp_path / "conf")
    assert line.startswith(f"{tmp_path / 'conf' / name}: not YAML that can be read (")


def test_its_version_is_the_harness_own(tmp_path: Path) -> None:
    assert harness(tmp_path, "--version").stdout == f"harness {__version__}\n"


@pytest.mark.parametrize("more", [(), ("adaptation=lora,full_ft",)])
def test_what_hydra_alone_can_judge_is_one_line_too(tmp_path: Path, more: tuple[str, ...]) -> None:
    """Beside a sweep too, where Hydra by itself finds the list ambiguous instead."""
    assert told(tmp_path, "~nothing", *more) == [
        "Could not delete from config. 'nothing' does not exist. (python -m harness --help lists what may be chosen)"
    ]


def test_a_key_of_ones_own_may_be_added_where_it_is_used(tmp_path: Path) -> None:
    assert not misspelt(["+team=x", "outputs='/tmp/${team}'"], CONF)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/mine.yaml").write_text("# @package _global_\nteam: alpha\noutputs: /tmp/${team}")
    assert not misspelt(["+sweep=mine", "++team=beta", "--config-dir", str(tmp_path)], CONF)
    assert len(misspelt(["++team=beta", "--config-dir", str(tmp_path)], CONF)) == 1


def test_what_is_added_must_exist_too() -> None:
    """Hydra takes any name after a `+`, and runs without what was meant."""
    assert misspelt(
        ["+sweeep=support_tone", "+quantisation=int8", "+curv=[0.5]", "++sed=1", "+price.utilisation=1",
         "+runner.worker=2", "+profile.epohs=2"], CONF,
    ) == [
        f"sweeep: no such group or key; did you mean sweep? {HELP}",
        f"quantisation: no such group or key; did you mean quantization? {HELP}",
        f"curv: no such group or key; did you mean curve? {HELP}",
        f"sed: no such group or key; did you mean seed? {HELP}",
        f"price.utilisation: no such knob; did you mean price.utilization? {HELP}",
        f"runner.worker: no such knob; did you mean runner.workers? {HELP}",
        f"profile.epohs: no such knob; did you mean profile.epochs? {HELP}",
    ]  # fmt: skip


def test_what_is_for_no_grid_is_told_and_not_offered() -> None:
    line = "check=strict: rules of the release gate; use python -m harness.check RUN --baseline FILE --rules strict"
    assert misspelt(["check=strict", "+check=strict"], CONF) == [line, line]
    (other,) = misspelt(["checkx=1"], CONF)
    assert "check," not in other.partition(";")[2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("adaptation.rank=8",), ["adaptation.rank: prompt_rag has no knob 'rank' (lora, lora_head have it); "
                                  "choose adaptation=lora"]),
        (("adaptation=lora,full_ft", "adaptation.rank=8", "quantization=int8,fp16", "quantization.threshold=0"),
         ["adaptation.rank: full_ft has no knob 'rank' (lora, lora_head have it); choose adaptation=lora",
          "quantization.threshold: fp16 has no knob 'threshold' (int8 has it); choose quantization=int8"]),
        (("+sweep=support_tone", "model.path=x.gguf", "adaptation.rank=8"),
         ["model.path: smollm2_135m has no knob 'path' (gguf has it); choose model=gguf",
          "adaptation.rank: prompt_rag, full_ft have no knob 'rank' (lora, lora_head have it); "
          "choose adaptation=lora"]),
        (("--cfg", "job", "adaptation=lora,full_ft"),
         ["adaptation=lora,full_ft: --cfg prints one cell, so leave out comma lists"]),
        (("sweep=support_tone", "curve=[0.5]", "+quantization=int8", "+seed=1", "++store=s"),
         ["sweep=support_tone: write +sweep=support_tone", "curve=[0.5]: write +curve=[0.5]",
          "+quantization=int8: quantization is set already; write quantization=int8",
          "+seed=1: seed is set already; write seed=1"]),
        (("support_tone",), ["support_tone: not NAME=VALUE; did you mean +sweep=support_tone?"]),
        (("adaptation=lora", "full_tf"), ["full_tf: not NAME=VALUE; did you mean adaptation=full_ft?"]),
        (("what?",), [f"what?: not NAME=VALUE; write GROUP=NAME or GROUP.KEY=VALUE {HELP}"]),
        (("adaptation=lora,,full_ft",), ["adaptation=lora,,full_ft: cannot be read; give one value, or several with "
                                         "single commas between"]),
        (("store=~/it",), ['store=~/it: cannot be read; write "store=$HOME/it"']),
        (("outputs=my runs/ä ö",), ["outputs=my runs/ä ö: cannot be read; give one value, or several with single "
                                    "commas between, or a text as 'outputs=\"my runs/ä ö\"'"]),
    ],
)  # fmt: skip
def test_what_hydra_refuses_is_told_by_its_cause(
    tmp_path: Path, arguments: tuple[str, ...], expected: list[str]
) -> None:
    assert told(tmp_path, *arguments) == expected


@pytest.mark.parametrize(
    "text", ["my runs/ä ö", "Say 'hi'", "it''s", 'a "b" c', "a=b", "a(b)", "c:\\ü", 'ü\\"', "ä ${seed}", "[ä"]
)
def test_a_text_that_cannot_be_read_is_told_ready_to_paste(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    parser = OverridesParser.create()
    for given in (text, f"'{text}'"):
        try:
            parser.parse_overrides([f"suite.system={given}"])
        except OverrideParseException as error:
            (line,) = causes(error, [error.override], CONF)
            (argument,) = shlex.split(line.partition(" or a text as ")[2])
            read = parser.parse_override(argument)
            assert (read.key_or_group, read.value()) == ("suite.system", text)


def test_a_choice_whose_name_cannot_be_read_is_told_ready_to_paste(tmp_path: Path) -> None:
    text = (CONF / "suite/support_tone.yaml").read_text(encoding="utf-8")
    (tmp_path / "conf/suite").mkdir(parents=True)
    (tmp_path / "conf/suite/müller.yaml").write_text(
        text.replace("name: support_tone", "name: müller"), encoding="utf-8"
    )
    for given, mend in (("müller", '"müller"'), ("müller,tool_json", '"müller","tool_json"')):
        (line,) = told(tmp_path, f"suite={given}")
        assert line == f"suite={given}: cannot be read; write 'suite={mend}'"
        (argument,) = shlex.split(line.partition("; write ")[2])
        (line,) = told(tmp_path, argument, "seed=-1")
        assert line.startswith("seed=-1: must be"), "it is read"


@pytest.mark.parametrize(
    "arguments",
    [
        ["+sweep=support_tone", "-m", "adaptation=lora", "--dry-run"],
        ["+sweep=support_tone", "--config-dir", "conf", "adaptation=lora"],
        ["--config-dir=conf", "+sweep=support_tone", "--multirun", "adaptation=lora"],
    ],
)
def test_options_may_stand_between_overrides(tmp_path: Path, arguments: list[str]) -> None:
    """Hydra's parser takes one lot of them."""
    (tmp_path / "conf").mkdir()
    (line,) = told(tmp_path, *arguments, "seed=-1")
    assert line.startswith("seed=-1: must be")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cfg", "job", "-m", "seed=7"], ["seed=7", "--cfg", "job", "~price", "--dry-run"],
        ["--cfg=job", "--config-dir=conf", "+sweep=support_tone", "--multirun", "seed=7"],
    ],
)  # fmt: skip
def test_what_is_printed_is_that_of_the_same_grid(tmp_path: Path, arguments: list[str]) -> None:
    """Whatever stands between overrides, and where it is said to be a grid."""
    (tmp_path / "conf").mkdir()
    done = harness(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    made = OmegaConf.create(done.stdout)
    assert made.seed == 7
    assert made.dry_run == ("--dry-run" in arguments)
    assert ("price" in made) == ("~price" not in arguments)


def test_a_bare_word_is_told_when_a_configuration_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    done = harness(tmp_path, "--cfg", "job", "smol", "seed=7")
    assert done.returncode == 2
    assert "smol: not NAME=VALUE" in done.stderr


@pytest.mark.parametrize(
    ("argument", "mend"),
    [
        ("quantization=[fp16,bf16]", "quantization=fp16,bf16"), ("suite=['support_tone']", "suite=support_tone"),
        ("quantization=[fp16,bf16],int8", "quantization=fp16,bf16,int8"),
    ],
)  # fmt: skip
def test_choices_in_brackets_are_told(tmp_path: Path, argument: str, mend: str) -> None:
    """Hydra merges them into one cell, that of the last."""
    assert misspelt([argument, "quantization=gtpq"], CONF) == [
        f"{argument}: write {mend}", f"quantization=gtpq: no such choice; did you mean gptq? {HELP}",
    ]  # fmt: skip
    (tmp_path / "sweep").mkdir()
    group, _, choices = argument.partition("=")
    params = f'# @package _global_\nhydra: {{sweeper: {{params: {{{group}: "{choices}"}}}}}}'
    (tmp_path / "sweep/mine.yaml").write_text(params)
    assert misspelt(["+sweep=mine", "--config-dir", str(tmp_path)], CONF) == [f"{argument}: write {mend}"]


def test_values_are_filled_in_only_where_they_are_printed() -> None:
    line = "--resolve: fills in the values that --cfg prints; write --cfg job --resolve"
    assert misspelt(["--resolve", "seed=1"], CONF) == [line]
    assert not misspelt(["--resolve", "--cfg", "job"], CONF) + misspelt(["--cfg=job", "--resolve"], CONF)


def test_keys_that_nothing_reads_are_told() -> None:
    def told_of(**groups: dict[str, Any]) -> list[str]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", ["+suite.train_share=0.5", "+price.hardware.mine.note=ours", "+team=x"])
        OmegaConf.set_struct(config, False)
        for group, keys in groups.items():
            own = {**config[group], **keys}
            config[group] = {k: v for k, v in own.items() if v != "taken out"}
        return unknown_keys([config], CONF)

    assert told_of() == []
    assert told_of(
        measure={"name": "own", "latency": {"level": {"share": 1, "ttft": 1}, "foo": 3}},
        price={"name": "own", "usd_per_labeled_row": 2, "usd_per_labelled_row": "taken out"},
        runner={"worker": 1, "step_limit_minute": 5},
        suite={"ask": "Ticket", "asked": "taken out", "lang": "de", "folder": "x_${suite.lang}"},
        profile={"name": "own", "aa_contrl": True, "aa_control": "taken out", "few_shot": 3},
    ) == [
        "measure.latency.level.ttft of measure=own: no such knob; did you mean ttft_ms?",
        "measure.latency.foo of measure=own: no such knob; there is adapters, batch_size, batch_tokens, clients, "
        "level, natural_requests, open_requests, output_tokens, precision, requests, requests_per_client, rounds, "
        "warmup, warmup_most",
        "price.usd_per_labeled_row of price=own: no such knob; did you mean usd_per_labelled_row?",
        "profile.aa_contrl of profile=own: no such knob; did you mean aa_control?",
        "runner.worker of runner=local: no such knob; did you mean workers?",
        "runner.step_limit_minute of runner=local: no such knob; did you mean step_limit_minutes?",
        "suite.ask of suite=support_tone: no such knob; did you mean asked?",
    ]


def test_every_packaged_choice_has_only_keys_that_are_read() -> None:
    checked = {*UNCHECKED, "sweep"}
    for choice in (c for c in may_be_chosen() if c.lstrip("+").partition("=")[0] in checked):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            assert not unknown_keys([compose("config", [choice])], CONF), choice


def test_a_knob_that_every_swept_choice_has_is_taken(tmp_path: Path) -> None:
    """Though the choice by default lacks it, with which Hydra first composes what is not swept."""
    (tmp_path / "conf/sweep").mkdir(parents=True)
    params = "# @package _global_\nhydra: {sweeper: {params: {adaptation: 'lora,lora_head'}}}"
    (tmp_path / "conf/sweep/loras.yaml").write_text(params, encoding="utf-8")
    for given in (
        ["adaptation=lora,lora_head"], ["--config-dir", "conf", "+sweep=loras"], ["-m", "adaptation=glob(lora*)"],
    ):  # fmt: skip
        lines = told(tmp_path, *given, "adaptation.rank=0", "model=dummy_tiny")
        assert lines == ["lora: rank=0: must be 1 or more", "lora_head: rank=0: must be 1 or more"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("+sweep=support_tone", "quantization=int8,gptq", "adaptation=lora", "adaptation.rank=8,16"),
        ("model=hf", "model.id=org/name", "seed=1,2", "price.hardware.cpu.usd_per_hour=1", "policy.margin=0.1"),
        ("+adaptation.whatever=1", "++model.whatever=1", "~price.hardware.cpu", "hydra.sweep.dir=x", "--cfg", "job"),
        ("+price.hardware.mine.usd_per_hour=1", "price.hosted.gpt_5_nano.usd_per_million_input=1", "+curve=[0.5]"),
        ("hydra/launcher=joblib", "outputs=x", "store=y", "sweep_name=z", "suite.folder=a/b", "profile=thorough"),
        ("--config-dir", str(ROOT / "tests/conf"), "quantization=dies"),
        ("hydra.searchpath=[pkg://elsewhere]", "quantization=from_there"),
        (f"hydra.searchpath=[file://{ROOT}/tests/conf]", "quantization=dies"),
        ("hydra/launcher=joblib", "hydra.job.env_set.A=1", "hydra.sweep.subdir=x"),
        ("-sc", "install=bash"),
        ("--shell-completion", "query=bash"),
        ("quantization=glob(*)", "x=[", "--help"),
    ],
)
def test_what_may_be_right_is_left_to_hydra(arguments: tuple[str, ...]) -> None:
    assert not misspelt(arguments, CONF)


def may_be_chosen() -> list[str]:
    """The overrides that choose what `--help` lists."""
    groups = [line.split(": ") for line in listed([], CONF).splitlines()]
    return [f"{group}={name}" for group, names in groups for name in names.split(", ")]


def test_help_names_every_key_for_the_whole_run_and_every_program(tmp_path: Path) -> None:
    """And prints where the packaged choices stand, by a command that works."""
    said = harness(tmp_path, "--help").stdout
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        whole = compose("config")
    alone = {str(key) for key, value in whole.items() if not OmegaConf.is_config(value)} - {"sweep_name"}
    assert {line.partition("=")[0].strip() for line in said.splitlines()} >= alone
    programs = {f"harness.{p.parent.name}" for p in (ROOT / "harness").glob("*/__main__.py")}
    assert not {p for p in programs if f"python -m {p} " not in said}
    code = re.findall(r"python -c '(.*)'", said)[0]
    assert Path(python(tmp_path, "-c", code).stdout.strip()) == ROOT / "conf"


def test_every_file_but_those_for_no_grid_may_be_chosen(tmp_path: Path) -> None:
    files = {f"{f.parent.name}={f.stem}" for f in CONF.glob("*/*.yaml")}
    assert {choice.lstrip("+") for choice in may_be_chosen()} == {f for f in files if not f.startswith("check=")}
    assert "+sweep=support_tone" in may_be_chosen()
    assert not misspelt(may_be_chosen(), CONF)
    assert f"\n{listed([], CONF)}\n\n" in harness(tmp_path, "--help").stdout
