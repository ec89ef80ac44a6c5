"""Work that memory cannot hold is refused before it starts, with what it needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness import environment
from harness.anatomy import kv_bytes
from harness.engine import fits
from harness.engine.eager import Eager, EagerSession
from harness.engine.graph import Graph, GraphSession
from harness.environment import container_memory
from harness.errors import DoesNotFit
from harness.launch import told
from tests.test_engine import CONTEXT, PROMPTS
from tests.test_graph import MODELS, saved


@pytest.mark.parametrize("engine", [Eager(batch_size=4, min_prefix=0), Graph(batch_size=4)])
def test_rows_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Eager | Graph
) -> None:
    session = engine.start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    longest = max(len(session.tokenizer(p, add_special_tokens=False).input_ids) for p in PROMPTS)
    rows, tokens = (4, longest + 9) if isinstance(engine, Eager) else (5, 128)  # one for padding
    needed = rows * kv_bytes(session.model, tokens)
    monkeypatch.setattr(fits, "free_bytes", lambda device: needed)
    assert len(session.generate(PROMPTS, 9)) == 4
    session = engine.start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    monkeypatch.setattr(fits, "free_bytes", lambda device: needed - 1)
    told = f"{rows} rows of {tokens} tokens need 0.0 GiB .* lower engine.batch_size .* measure.latency.output_tokens"
    with pytest.raises(DoesNotFit, match=told):
        session.generate(PROMPTS, 9)


def test_a_wide_batch_and_a_long_row_need_not_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots grow to hold both where there is room, and are as wide or as long as is asked where there is not."""
    session = Graph(batch_size=11).start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    assert isinstance(session, GraphSession)
    wide, long = ["Why?"] * 11, ["x" * 290]

    def sizes() -> list[tuple[int, int]]:
        found = []
        for prompts in (wide, long, wide):
            session.generate(prompts, 9)
            slots = session.slots(0, 0)
            found.append((slots.rows, slots.capacity))
        return found

    told = session.generate(wide + long, 9)
    session._slots = None
    assert sizes() == [(11, 64), (11, 512), (11, 512)]
    room = 2 * 12 * kv_bytes(session.model, 512)  # as much again for reading prompts, and what comes later
    least = 2 * 12 * kv_bytes(session.model, 64) - 1
    for free, expected in (
        (room, (11, 512)), (room - 1, (1, 512)), (4 * kv_bytes(session.model, 512) - 1, (1, 320)), (least, (1, 320)),
    ):  # fmt: skip
        session._slots = None
        monkeypatch.setattr(fits, "free_bytes", lambda device, free=free: free)
        assert sizes() == [(11, 64), expected, (11, 512) if free == room else (11, 64)]
    assert [session.generate(p, 9)[0] for p in (wide, long)] == [told[0], told[-1]]


def test_what_each_row_repeats_of_a_shared_prefix_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Eager(batch_size=4).start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    assert isinstance(session, EagerSession)
    session.no_prefix = []  # as on a GPU
    asked: list[int] = []
    monkeypatch.setattr("harness.engine.eager.require", lambda model, device, rows, tokens: asked.append(tokens))
    prompts = ["the same beginning " + "x" * n for n in (1, 5)]
    session.generate(prompts, 9)
    assert asked == [len(prompts[1]) + 9]


def test_free_memory_is_read() -> None:
    assert 2**20 < environment.free_bytes("cpu") < 2**50


GIB = 2**30


def group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("listing", "top", "names"),
    [
        ("0::/pod/work\n", "", ("max", "current", "inactive_file")),
        (
            "5:devices:/\n4:cpu,memory:/pod/work\n0::/\n",
            "memory",
            ("limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_a_containers_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: str, top: str, names: tuple[str, str, str]
) -> None:
    limit, used, spare = names
    (tmp_path / "cgroup").write_text(listing)
    root = tmp_path / "fs" / top
    group(root / "pod/work", {limit: "max" if limit == "max" else 2**63 - 4096, used: GIB, "stat": f"{spare} 0"})
    group(root / "pod", {limit: 4 * GIB, used: 3 * GIB, "stat": f"anon 5\n{spare} {GIB // 2}"})
    found = container_memory(tmp_path / "cgroup", tmp_path / "fs")
    assert (4 * GIB, 3 * GIB // 2) in found
    assert min(free for _, free in found) == 3 * GIB // 2
    monkeypatch.setattr(environment, "container_memory", lambda: [(4 * GIB, 1)])
    assert environment.free_bytes("cpu") == 1


def test_a_container_that_shows_only_itself(tmp_path: Path) -> None:
    """Docker mounts the container's own group as the top, and the listing may name the host's path."""
    (tmp_path / "cgroup").write_text("0::/system.slice/docker-1234.scope\n")
    group(tmp_path / "fs", {"max": 8 * GIB, "current": GIB, "stat": "inactive_file 0"})
    assert container_memory(tmp_path / "cgroup", tmp_path / "fs") == [(8 * GIB, 7 * GIB)]
    assert container_memory(tmp_path / "no such file", tmp_path / "fs") == []


def test_pytorchs_own_error_is_told_as_what_it_is() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
    assert told(error) == "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert told(ValueError("")) == "ValueError: no message"
