"""What a run has shown, as a table for people."""

from __future__ import annotations

from typing import Any

AIMS = {1: "p50 ≤ 2 × the floor's", 64: "≥ 0.3 × the floor"}
"""Of the callback cycle, by the number in flight."""

HEAD = ("in flight", "", "cycles/s", "p50 ms", "p99 ms", "server CPU µs", "worker CPU µs")


def table(report: dict[str, Any]) -> str:
    """The table, the ratios and the aims."""
    lines = [HEAD]
    notes = []
    for row in report["rows"]:
        for what in ("floor", "ours"):
            found = row[what]
            lines.append(
                (
                    str(row["in_flight"]),
                    what,
                    f"{found['per_second']:,.0f}",
                    f"{found['p50_ms']:.2f}",
                    f"{found['p99_ms']:.2f}",
                    f"{found['server_cpu_us']:.0f}",
                    f"{found['worker_cpu_us']:.0f}",
                )
            )
        aim = AIMS.get(row["in_flight"])
        notes.append(
            f"{row['in_flight']} in flight: {row['ratio_per_second']:.2f} × the floor's cycles/s, "
            f"{row['ratio_p50']:.2f} × its p50" + (f" (aim: {aim})" if aim else "")
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    drawn = [
        "  ".join(
            cell.ljust(width) if column == 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join(
        [
            *drawn,
            "",
            *notes,
            "",
            f"worker: {report['worker']}; synchronous=FULL, an fsync takes {report['fsync_ms']:.2f} ms here; "
            f"{report['kept']:,} invocations are in the store, {report['answered']:,} were answered.",
        ]
    )
