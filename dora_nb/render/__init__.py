"""Text, tables, HTML and SVG of what a person meets; no plotly, nothing fetched.

- questions: ``requests``, ``clusters``, ``conditions``, ``world``
- plans: ``plans``, ``tables``, ``front``, ``timeline``, ``frames``, ``html``, ``envelope``, ``solvers``,
  ``certificates``
- other answers: ``composition``, ``shares``, ``sharing``, ``serving``, ``placement``, ``explanations``,
  ``infeasible``, ``accuracy``
- runs and simulations: ``runs``, ``profiles``, ``comparison``, ``simulation``, ``simulation_chart``, ``trace``
- the headline comparison: ``reproduction``, ``reproduction_html``, ``dots``
- pieces: ``words``, ``briefly``, ``kinds``, ``media``, ``markup``, ``svg``, ``network``, ``layout``, ``wrapping``
"""
