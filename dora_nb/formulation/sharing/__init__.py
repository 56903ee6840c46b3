"""Several streams on one cluster: their stages, their timetable, their program."""
