"""The report: one HTML page that opens offline (`python -m grace report`)."""

from grace.report.page import report

__all__ = ["report"]
