"""The bounding search: partitions built stage by stage over columns that may matter."""
