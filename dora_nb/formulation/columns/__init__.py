"""Stage columns: every way to run some contiguous layers on some devices.

A column is (layers between two cuts, device group, sample shares or shards, micro-batch size). It carries what the
stage costs in itself, so that a pipeline's load, airtime, memory and energy are sums and maxima over its columns.

Devices that cannot be told apart form a *type*, and groups are counted by type: swapping two equal devices gives the
same column. Of the share vectors of a group only those that no other beats in every figure are kept.

``record`` says what a column is, ``building`` makes them all from the figures of ``computing``, ``transfers``,
``sums``, ``shard_sums`` and ``memory`` for many groups at a time (``held``, ``pairs``), and ``dominance`` leaves out
those that others match or beat.
"""

from dora_nb.formulation.columns.building import build_columns, stage_columns
from dora_nb.formulation.columns.record import Choice, Columns, Considered, Screen, leader_first

__all__ = ["Choice", "Columns", "Considered", "Screen", "build_columns", "leader_first", "stage_columns"]
