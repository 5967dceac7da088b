"""Energy of a command: its NVIDIA cards through NVML (extra `energy`) and the processor through RAPL, where they can be read.

A card's counter covers the whole card, whoever uses it. RAPL counts whole processor sockets, so a command is charged in
proportion to its share, with its children, of the busy CPU time. A value that cannot be measured is a gap with a reason.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

POWERCAP, STAT = Path("/sys/class/powercap"), Path("/proc/stat")
SECONDS = 30.0  # between readings: the sockets' counters wrap around after some minutes of full load
# grams of CO2 per kilowatt-hour of electricity: the world's mean in 2024 (IEA, Electricity 2025, chapter Emissions,
# https://www.iea.org/reports/electricity-2025/emissions), for generation alone, without fuel supply
WORLD_GRAMS_PER_KWH = 445.0


class EnergyMeter:
    """Measure energy from creation until `stop`; a thread reads the counters every `SECONDS`."""

    def __init__(self, powercap: Path = POWERCAP, stat: Path = STAT):
        self.gaps: dict[str, str] = {}
        self._stat, self._lock, self._end = stat, threading.Lock(), threading.Event()
        self._cards = self._open_cards()
        self._sockets = self._open_sockets(powercap)
        self._card_start = self._card_energy()
        self._socket_last = [self._counter(socket) for socket in self._sockets]
        self._socket_joules = 0.0
        self._busy, self._own = _busy_seconds(stat), _own_seconds()
        if self._sockets:
            threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> dict[str, Any]:
        """Return {"gpu_joules", "cpu_joules", "gaps"}; a value that was not measured is None, with its reason in `gaps`."""
        self._end.set()
        return {"gpu_joules": self._card_joules(), "cpu_joules": self._cpu_joules(), "gaps": self.gaps}

    # ------------------------------------------------------------------------------------------------------------ cards
    def _open_cards(self) -> list[Any]:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        try:
            import pynvml
        except ImportError:
            there = Path("/proc/driver/nvidia").exists()
            self.gaps["gpu"] = "nvidia-ml-py is not installed (the extra `energy`)" if there else "there is no NVIDIA card"
            return []
        try:
            pynvml.nvmlInit()
            if visible is None:
                cards = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            else:
                words = [word.strip() for word in visible.split(",") if word.strip() not in ("", "-1")]
                cards = [
                    pynvml.nvmlDeviceGetHandleByIndex(int(word)) if word.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(word)
                    for word in words
                ]
            for card in cards:
                pynvml.nvmlDeviceGetTotalEnergyConsumption(card)
        except (pynvml.NVMLError, OSError) as error:
            self.gaps["gpu"] = f"NVML: {error}"
            return []
        if not cards:
            self.gaps["gpu"] = "this command has no NVIDIA card"
        return cards

    def _card_energy(self) -> float:
        """Return the joules of all cards since their driver was loaded."""
        if not self._cards:
            return 0.0
        import pynvml

        return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(card) for card in self._cards) / 1000

    def _card_joules(self) -> float | None:
        if not self._cards:
            return None
        try:
            return round(max(0.0, self._card_energy() - self._card_start), 1)
        except Exception as error:  # NVMLError: the card was lost
            self.gaps["gpu"] = f"NVML: {error}"
            return None

    # ---------------------------------------------------------------------------------------------------------- sockets
    def _open_sockets(self, powercap: Path) -> list[Path]:
        sockets = sorted(powercap.glob("*-rapl:[0-9]*")) if powercap.is_dir() else []
        sockets = [socket for socket in sockets if socket.name.count(":") == 1]  # two colons: a part of a socket
        if not sockets:
            self.gaps["cpu"] = "this machine shows no RAPL counters"
        try:
            for socket in sockets:
                self._counter(socket)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.gaps["cpu"] = f"RAPL counters cannot be read ({reason}); an administrator can allow it"
            return []
        return sockets

    @staticmethod
    def _counter(socket: Path) -> int:
        return int((socket / "energy_uj").read_text())

    def _watch(self) -> None:
        while not self._end.wait(SECONDS):
            self._read_sockets()

    def _read_sockets(self) -> None:
        """Add the sockets' energy since the last reading; a counter wraps around at the end of its range."""
        with self._lock:
            try:
                for index, socket in enumerate(self._sockets):
                    now, last = self._counter(socket), self._socket_last[index]
                    whole = int((socket / "max_energy_range_uj").read_text()) if now < last else 0
                    self._socket_joules += (now - last + whole) / 1e6
                    self._socket_last[index] = now
            except (OSError, ValueError) as error:
                self.gaps["cpu"] = f"RAPL counters could not be read to the end ({error})"

    def _cpu_joules(self) -> float | None:
        if not self._sockets:
            return None
        self._read_sockets()
        if "cpu" in self.gaps:
            return None
        busy = _busy_seconds(self._stat) - self._busy
        share = min(1.0, (_own_seconds() - self._own) / busy) if busy > 0 else 1.0
        return round(self._socket_joules * share, 1)


def _busy_seconds(stat: Path) -> float:
    """Return the CPU seconds that all processes of the machine have used; 0 if unknown."""
    try:
        user, nice, system, _idle, _wait, *rest = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Return the CPU seconds that this process and its children have used."""
    return sum(os.times()[:4])


def added(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Add the energy of two processes; a value that either did not measure is a gap."""
    sums = {}
    for key in ("gpu_joules", "cpu_joules"):
        a, b = first.get(key), second.get(key)
        sums[key] = round(a + b, 1) if isinstance(a, int | float) and isinstance(b, int | float) else None
    return sums | {"gaps": {**first.get("gaps", {}), **second.get("gaps", {})}}


def in_words(joules: dict[str, list[float | None]], grams_per_kwh: float = WORLD_GRAMS_PER_KWH) -> str:
    """Return a sentence on the energy and CO2 of jobs, which also says what was not measured.

    Args:
        joules: "cards" and "processor" -> energy of each job; None where it was not measured.
        grams_per_kwh: grams of CO2 per kilowatt-hour of electricity.
    """
    parts, measured = [], 0.0
    for what, values in joules.items():
        known = [value for value in values if value is not None]
        if not known:
            parts.append(f"{what}: not measured")
            continue
        measured += sum(known)
        of = "" if len(known) == len(values) else f" ({len(known)} of {len(values)} jobs; the others were not measured)"
        parts.append(f"{what} {sum(known) / 3600:.3g} Wh{of}")
    if not measured:
        return f"Energy: {', '.join(parts)}; so no carbon either."
    grams = measured / 3.6e6 * grams_per_kwh
    return f"Energy: {', '.join(parts)}; together {grams:.3g} g of CO2 at {grams_per_kwh:g} g per kWh."
