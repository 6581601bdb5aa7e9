"""Door: the command line (extra ``cli``). ``agd train``, ``agd fit``, ``agd predict``, ``agd backends``."""
