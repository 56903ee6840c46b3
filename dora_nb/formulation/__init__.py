"""What searches and programs are made of; how plans are found with it is said in :mod:`dora_nb.planning`.

- a question as arrays: ``problem``, ``ground``, ``fleet``, ``space``, ``terms``
- stages: ``columns``, ``reuse``, ``hand_overs``, ``decode``
- what is still missing costs at least: ``completion``, ``stages_left``, ``energy_left``
- programs: ``rows``, ``partition``, ``joint``
- orders of transfers: ``schedules``
- other questions: ``composition``, ``sharing``, ``serving``, ``placement``, ``fleets``
"""
