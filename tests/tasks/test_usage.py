"""What a run takes of its machine."""

from __future__ import annotations

import subprocess
import sys

from tasks.usage import UsageSampler


def test_usage_counts_children_and_what_the_dead_have_used() -> None:
    code = "import time; kept = bytearray(150 * 2**20)\nwhile time.process_time() < 0.8: pass"
    with UsageSampler(interval_s=0.05) as sampler:
        before = sampler.usage()
        subprocess.run([sys.executable, "-c", code], check=True)
        after = sampler.usage()
    assert after.peak_rss_mib > before.peak_rss_mib + 140
    assert after.cpu_seconds > before.cpu_seconds + 0.6
    assert after.wall_seconds > 0.8
    assert after.peak_processes == before.peak_processes + 1
    assert after.peak_pss_mib is None or after.peak_pss_mib < after.peak_rss_mib
