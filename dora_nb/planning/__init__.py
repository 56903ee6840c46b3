"""From questions to proven plans.

- the calls: ``plan``, ``planner``, ``orders``, ``pace``
- questions: ``question``, ``ask``, ``why_not``
- from a question to answers: ``hunt``, ``bounding``, ``proof``, ``scheduling``, ``streaming``, ``settle``,
  ``answers``
- what is kept on the way: ``session``, ``known``, ``nearest``, ``proven``, ``deadline``
- programs as they stand: ``exact``
- other questions: ``composition``, ``sharing``, ``serving``, ``placement``, ``fleets``
- why, and what else: ``explanation``, ``baselines``
"""
