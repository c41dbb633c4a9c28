"""`nanoclaw doctor`: everything that NanoClaw stands on, looked at; each thing well, doubtful, or to be mended.

Nothing is repaired and nothing is changed, but for sandboxes that are started to be looked into. Each look is
bounded in time, and none depends on another's success: this is run when something does not work.
"""

from host.doctor.look import Subject, examine
from host.doctor.words import FAILURE, OK, WARNING, Finding, record

__all__ = ["FAILURE", "OK", "WARNING", "Finding", "Subject", "examine", "record"]
