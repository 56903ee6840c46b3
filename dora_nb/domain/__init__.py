"""What exists: frozen records, checked when they are built, and the files that hold them.

- what is asked: ``workload``, ``layer``, ``architecture``, ``cluster``, ``qoe``, ``conditions``, ``dynamics``,
  ``stream``, ``problem``
- what answers it: ``plan``, ``transfer``, ``certificate``, ``prediction``, ``plan_set``, ``coverage``,
  ``composition``, ``sharing``, ``serving``, ``placement``, ``explanation``, ``solver_comparison``
- whether it fits and is kept: ``fits``, ``limit``, ``rating``
- what was measured: ``profile``, ``links``, ``accuracy``, ``run_record``, ``run_timeline``, ``run_times``,
  ``comparison``
- who decides as a run goes on: ``controller``
- files: ``document``, ``cluster_file``, ``plan_file``, ``problem_file``, ``profile_file``, ``run_file``,
  ``serving_file``, ``sharing_file``
- underneath: ``record``, ``fingerprint``
"""
