"""The Ray shell around :mod:`anchornet`: one module per job, ``python -m jobs.NAME --config FILE --set section.key=value``."""
