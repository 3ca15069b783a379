"""What each job can be told: one frozen dataclass per section, one file per job.

A field's docstring gives its unit and what None means. ``python -m jobs.NAME --help`` lists the fields of a job.
"""
