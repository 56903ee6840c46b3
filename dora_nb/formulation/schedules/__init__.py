"""The order of transfers of one plan: lists, series, windows, the transfer program, streams."""
