"""Mutated inputs: no decoder may crash, take much memory, or think for long.

Half of them are broken bytes (flipped, cut, doubled, spliced, lengths blown up); half are well-formed messages in
which one value is replaced by a hostile one, which get past the outer checks. Time is that of the CPU; what seems slow
is tried again, as the garbage collector may take its turn, some 100 ms, during any input.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from meshlore.codec import pack, unpack
from meshlore.errors import MeshloreError

from .decoders import Decoder, all_decoders
from .figures import Figure

MAX_GROWTH_MB = 64
MAX_REFUSAL_MS = 50
MAX_INPUT_BYTES = 1 << 20
WARM_UP = 300
HOSTILE: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.5, -1e308, "", "x" * 70_000, "\x00\x1b[2J",
    "../../etc/passwd", "\u202e", b"", bytes(32), bytes(64), bytes(100_000), [], [[]] * 1000, [0] * 4096, {}, {"": 0},
    {"v": 1}, [{}] * 2000, [b"k" * 32, 1],
)  # fmt: skip


def measure_frames(per_decoder: int, seed: int) -> list[Figure]:
    """``per_decoder`` mutated inputs into each decoder, in this process."""
    crashes: Counter[str] = Counter()
    slowest_ms, slowest = 0.0, ""
    refused = accepted = 0
    with tempfile.TemporaryDirectory(prefix="meshlore-fuzz-") as folder:
        decoders = all_decoders(Path(folder))
        for decoder in decoders:
            for data in mutations(decoder, random.Random(seed + 1), WARM_UP):
                _try(decoder, data)
        _forget_the_peak()
        before_mb = _peak_mb()
        for decoder in decoders:
            dice = random.Random(f"{seed} {decoder.name}")
            for data in mutations(decoder, dice, per_decoder):
                outcome, took_ms = _timed(decoder, data)
                if took_ms > MAX_REFUSAL_MS / 2:
                    took_ms = min(_timed(decoder, data)[1] for _ in range(3))
                refused, accepted = refused + (outcome == "refused"), accepted + (outcome == "accepted")
                if outcome not in ("refused", "accepted"):
                    crashes[f"{decoder.name}: {outcome}"] += 1
                if took_ms > slowest_ms:
                    slowest_ms, slowest = took_ms, decoder.name
            print(f"  {decoder.name}: {_peak_mb() - before_mb:.1f} MB, slowest {slowest_ms:.1f} ms", file=sys.stderr)
    tried = f"{len(decoders)} decoders x {per_decoder:,}"
    known = "; ".join(f"{count} x {what}" for what, count in crashes.most_common(5))
    return [
        Figure("frames", "crashes", sum(crashes.values()), most=0, note=known or tried),
        Figure("frames", "memory growth", _peak_mb() - before_mb, most=MAX_GROWTH_MB, unit="MB", note="peak RSS"),
        Figure("frames", "slowest refusal", slowest_ms, most=MAX_REFUSAL_MS, unit="ms CPU", note=slowest),
        Figure("frames", "refused", refused / max(1, refused + accepted), least=0.5, note=f"{accepted:,} were valid"),
    ]


def mutations(decoder: Decoder, dice: random.Random, count: int) -> Iterator[bytes]:
    """``count`` inputs made from what the decoder accepts; the same for the same dice."""
    values = [_value_of(sample) for sample in decoder.samples]
    for _ in range(count):
        which = dice.randrange(len(decoder.samples))
        value = values[which]
        if value is not None and dice.random() < 0.5:
            data = pack(_with_a_hostile_value(value, dice))
        else:
            data = _broken(decoder.samples[which], dice)
        yield data[:MAX_INPUT_BYTES]


def _timed(decoder: Decoder, data: bytes) -> tuple[str, float]:
    """What became of it, and the milliseconds that took."""
    started = time.thread_time()
    outcome = _try(decoder, data)
    return outcome, 1e3 * (time.thread_time() - started)


def _try(decoder: Decoder, data: bytes) -> str:
    try:
        decoder.decode(data)
    except MeshloreError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:60]}"
    return "accepted"


def _value_of(sample: bytes) -> Any:
    """The message in a sample, if it is a plain one."""
    try:
        return unpack(sample, max_bytes=len(sample))
    except MeshloreError:
        return None


def _with_a_hostile_value(value: Any, dice: random.Random) -> Any:
    """``value`` with one of its parts, or itself, replaced."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        changed, key = dict(value), dice.choice(sorted(value))
        what = dice.random()
        if what < 0.1:
            del changed[key]
        elif what < 0.2:
            changed[dice.choice(("", "x", "v", "\x00", "name"))] = dice.choice(HOSTILE)
        else:
            changed[key] = _with_a_hostile_value(value[key], dice)
        return changed
    if isinstance(value, list) and value and dice.random() < 0.8:
        place = dice.randrange(len(value))
        return [*value[:place], _with_a_hostile_value(value[place], dice), *value[place + 1 :]]
    if isinstance(value, bytes) and value and dice.random() < 0.7:
        return _broken(value, dice)
    if isinstance(value, int) and dice.random() < 0.5:
        return max(-(2**63), min(2**64 - 1, value + dice.choice((-1, 1, 255, 2**16, -(2**31)))))
    return dice.choice([item for item in HOSTILE if _can_travel(item)])


def _broken(sample: bytes, dice: random.Random) -> bytes:
    data = bytearray(sample)
    for _ in range(dice.choice((1, 1, 1, 2, 4, 16))):
        place = dice.randrange(len(data) + 1)
        match dice.randrange(6):
            case 0 if place < len(data):
                data[place] ^= dice.randrange(1, 256)
            case 1:
                del data[place : place + dice.choice((1, 4, 64, len(data)))]
            case 2:
                data[place:place] = dice.randbytes(dice.choice((1, 2, 9, 300)))
            case 3:
                end = min(len(data), place + dice.randrange(1, 64))
                data[place:place] = data[place:end] * dice.choice((1, 2, 50))
            case 4:
                # lengths of msgpack and of our frames, as large as they can be written
                data[place : place + 5] = dice.choice((0xDD, 0xDF, 0xC6, 0xDB, 0xC9)).to_bytes(1, "big") + b"\xff" * 4
            case _:
                data[place : place + 8] = dice.choice((b"\x00", b"\xff", b"\x80", b"\x90", b"\xc0")) * 8
        if not data:
            return bytes(data)
    return bytes(data)


def _can_travel(value: Any) -> bool:
    return not isinstance(value, float) or abs(value) < float("inf")


def _forget_the_peak() -> None:
    """Imports and the warm-up took more than what is measured; Linux can start the high-water mark anew."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    """The high-water mark of the resident memory."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
