"""Locks between processes (contracts/file_lock.py)."""

from contracts.file_lock import file_lock

__all__ = ["file_lock"]
