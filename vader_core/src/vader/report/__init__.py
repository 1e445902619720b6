"""The report of a run: one self-contained HTML file, made from nothing but the files of the run folder.

``write_report(folder)`` can be called at any time, for a run that is complete, under way or broken off;
``ReportListener`` calls it at the right moments of a run, and ``server.ReportServer`` shows reports on this machine.
Nothing here imports torch.
"""

from __future__ import annotations

from vader.report.contest_page import write_comparison
from vader.report.listener import ReportListener
from vader.report.page import write_report

__all__ = ["ReportListener", "write_comparison", "write_report"]
