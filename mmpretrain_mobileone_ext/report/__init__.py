"""Results for people: tables, JSON, and one page about one network.

``FormResult`` and its table serve a terminal. ``ReportData`` holds all that a page shows;
``write_report`` draws it. ``report.assemble`` fills it for an export and ``report.collect`` from a
work dir (imported by name: they load networks).
"""

from ..utils.files import tree_bytes
from .data import (
    Candidate,
    Disagreement,
    Drift,
    FormResult,
    FormRow,
    Guess,
    Mistake,
    ParityCheck,
    Provenance,
    ReportData,
    forms_table,
    write_forms_json,
)
from .page import write_report

__all__ = [
    'Candidate',
    'Disagreement',
    'Drift',
    'FormResult',
    'FormRow',
    'Guess',
    'Mistake',
    'ParityCheck',
    'Provenance',
    'ReportData',
    'forms_table',
    'tree_bytes',
    'write_forms_json',
    'write_report',
]
